"""A chart as SVG: axes, ticks, labels, a legend, lines with points. Light and dark by the viewer's own setting."""
import html
import math

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 55
STYLE = """
 text{font:13px sans-serif;fill:#1f2328} .title{font-weight:600;font-size:15px} .grid{stroke:#d1d9e0} .axis{stroke:#59636e}
 .s0{stroke:#0969da;fill:#0969da} .s1{stroke:#bc4c00;fill:#bc4c00} .s2{stroke:#1a7f37;fill:#1a7f37} polyline{fill:none!important;stroke-width:2}
 .back{fill:#fff}
 @media (prefers-color-scheme:dark){text{fill:#e6edf3} .grid{stroke:#30363d} .axis{stroke:#8d96a0} .back{fill:#0d1117}
 .s0{stroke:#58a6ff;fill:#58a6ff} .s1{stroke:#f0883e;fill:#f0883e} .s2{stroke:#3fb950;fill:#3fb950}}
"""


def number(value):
    """1, 0.25, 512, 2k, 10M: as a tick's label. Powers of two from 2,048 on as 2k, 32k."""
    if value >= 1024 and value % 1024 == 0 and math.log2(value).is_integer():
        return f"{value // 1024:.0f}k"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def linear_ticks(low, high, about=5):
    """Round numbers from at or below low to at or above high."""
    step = 10 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low, high):
    """Powers of ten from at or below low to at or above high."""
    return [10.0 ** k for k in range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)]


class Axis:
    """Values to places between `start` and `end`, in pixels."""

    def __init__(self, values, start, end, log, ticks=None):
        self.log, self.start, self.end = log, start, end
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        self.ticks = ticks or (log_ticks(low, high) if log else linear_ticks(low, high))
        self.low, self.high = min(low, self.ticks[0]), max(high, self.ticks[-1])

    def at(self, value):
        f = math.log if self.log else float
        return self.start + (self.end - self.start) * (f(value) - f(self.low)) / (f(self.high) - f(self.low))


def svg(chart):
    """The text of the file."""
    points = [p for series in chart.series.values() for p in series]
    xs = sorted({x for x, _ in points})
    ys = [y for _, y in points] + ([chart.y_from] if chart.y_from is not None and not chart.log_y else [])
    x = Axis(xs, LEFT, WIDTH - RIGHT, chart.log_x, ticks=xs)
    y = Axis(ys, HEIGHT - BOTTOM, TOP, chart.log_y)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">',
           f"<title>{html.escape(chart.title)}</title><style>{STYLE}</style>", f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>']
    for tick in y.ticks:
        out.append(f'<path class="grid" d="M{LEFT} {y.at(tick):.1f}H{WIDTH - RIGHT}"/>'
                   f'<text x="{LEFT - 8}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x.ticks:
        out.append(f'<path class="axis" d="M{x.at(tick):.1f} {HEIGHT - BOTTOM}v5"/>'
                   f'<text x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{number(tick)}</text>')
    out.append(f'<path class="axis" fill="none" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{html.escape(chart.x)}</text>')
    out.append(f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{html.escape(chart.y)}</text>')
    at = LEFT
    for k, (name, series) in enumerate(chart.series.items()):
        places = [(x.at(a), y.at(b)) for a, b in sorted(series)]
        out.append(f'<polyline class="s{k % 3}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in places)}"/>')
        out += [f'<circle class="s{k % 3}" cx="{a:.1f}" cy="{b:.1f}" r="3.5"/>' for a, b in places]
        out.append(f'<path class="s{k % 3}" stroke-width="2" d="M{at} 20h22"/><text x="{at + 28}" y="24">{html.escape(name)}</text>')
        at += 45 + 7.2 * len(name)
    return "\n".join(out) + "\n</svg>\n"
