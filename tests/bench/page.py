"""Results on disk and as markdown: results.json keeps what each figure's last run gave, README.md shows it, plots/ has the charts.

A README.md that has the two markers keeps its own text around them; what lies between is replaced.
"""
import dataclasses
import datetime
import json
import platform
import textwrap

import common
import plot

BEGIN, END = "<!-- figures: written by bench.py -->", "<!-- end of figures -->"


def machine():
    """The processor's name and how many of it."""
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.machine()
    return f"{common.CORES} cores, {name}"


def markdown_table(heads, rows, left=1):
    """The first `left` columns to the left, the others to the right."""
    marks = ["---" if k < left else "---:" for k in range(len(heads))]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in (heads, marks, *rows))


def cells_of(row):
    ratio, target = ("" if v is None else f"{v:.2f}" for v in (row.ratio, row.target))
    return row.id, row.what, row.ours, row.other, ratio, target


def replace_between(text, body):
    """`text` with what lies between the markers replaced."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{body}\n{END}{tail}"


class Results:
    def __init__(self, directory):
        self.directory = directory
        self.file = directory / "results.json"
        self.figures = json.loads(self.file.read_text()) if self.file.exists() else {}

    def put(self, name, rows, charts):
        self.figures[name] = {"date": str(datetime.date.today()), "machine": machine(), "rows": [row._asdict() for row in rows],
                              "charts": [dataclasses.asdict(chart) for chart in charts]}

    def rows(self, names):
        return [common.Row(**row) for name in names if name in self.figures for row in self.figures[name]["rows"]]

    def charts(self, names):
        return [common.Chart(**chart) for name in names if name in self.figures for chart in self.figures[name]["charts"]]

    def when(self, names):
        """Dates and machines, most of the time one of each."""
        seen = dict.fromkeys((f["date"], f["machine"]) for name, f in self.figures.items() if name in names)
        return "; ".join(f"{date}, {where}" for date, where in seen)

    def table(self, names):
        return f"{self.when(names)}\n\n" + markdown_table(["id", "what", "Assay", "ceiling or peer", "ratio", "target"],
                                                         [cells_of(row) for row in self.rows(names)], left=2)

    def body(self, names):
        """All of it as markdown."""
        parts = [self.table(names)]
        for chart in self.charts(names):
            parts += [f"### {chart.title}", f"![{chart.title}](plots/{chart.name}.svg)", textwrap.fill(chart.note, 100, break_long_words=False, break_on_hyphens=False),
                      markdown_table(chart.columns, chart.rows)]
        return "\n\n".join(parts)

    def write(self, names):
        (self.directory / "plots").mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.figures, indent=1) + "\n")
        for chart in self.charts(names):
            (self.directory / f"plots/{chart.name}.svg").write_text(plot.svg(chart))
        readme = self.directory / "README.md"
        old = readme.read_text() if readme.exists() else "# Measured\n\n" + BEGIN + END + "\n"
        if BEGIN in old:
            readme.write_text(replace_between(old, self.body(names)))
