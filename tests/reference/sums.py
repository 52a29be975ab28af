"""The task of the demo models: sums worked in steps, some with a mistake. A reader can check them by eye."""
import random
import zlib

MOST = 30
ASKS = ("What is {}?", "Work out {}.", "{} = ?", "How much is {}?")


def problem(r):
    """(numbers, operators): 2 to 4 operations with numbers to 12, nothing below 0 or above MOST on the way."""
    while True:
        numbers = [r.randint(1, 12) for _ in range(r.randint(3, 5))]
        operators = [r.choice("+-") for _ in numbers[1:]]
        value, good = numbers[0], True
        for operator, n in zip(operators, numbers[1:]):
            value = value + n if operator == "+" else value - n
            good = good and 0 <= value <= MOST
        if good:
            return numbers, operators


def expression(task):
    numbers, operators = task
    return " ".join([str(numbers[0]), *(f"{o} {n}" for o, n in zip(operators, numbers[1:]))])


def is_held_out(task):
    """One problem in 16, by its text alone."""
    return zlib.crc32(expression(task).encode()) % 16 == 0


def draw(r, held_out):
    while True:
        task = problem(r)
        if is_held_out(task) == held_out:
            return task


def question(r, task):
    return r.choice(ASKS).format(expression(task))


def blunder(r, value):
    """Another value, near or alike."""
    while True:
        wrong = r.choice((value + r.choice((-1, 1)), value + r.choice((-3, -2, 2, 3)), int(str(abs(value))[::-1]), r.randint(0, MOST)))
        if wrong != value and wrong >= 0:
            return wrong


def apply(operator, a, b):
    return a + b if operator == "+" else a - b


def wrong_step_text(r, value, operator, n):
    """(text, result) of one step with a mistake: in what it begins with, in what it takes, or in what it makes of them."""
    kind = r.random()
    if kind < 0.12:
        start = blunder(r, value)
        return f"{start} {operator} {n} = {apply(operator, start, n)}", apply(operator, start, n)
    if kind < 0.25:
        other = blunder(r, n)
        return f"{value} {operator} {other} = {apply(operator, value, other)}", apply(operator, value, other)
    result = blunder(r, apply(operator, value, n))
    return f"{value} {operator} {n} = {result}", result


def solution(r, task, wrong=None):
    """The steps; with `wrong`, a mistake is made in that one, and carried on. The last step is the answer."""
    numbers, operators = task
    value, steps = numbers[0], []
    for k, (operator, n) in enumerate(zip(operators, numbers[1:])):
        if k == wrong:
            text, value = wrong_step_text(r, value, operator, n)
        else:
            text, value = f"{value} {operator} {n} = {apply(operator, value, n)}", apply(operator, value, n)
        steps.append(text)
    return [*steps, f"The answer is {blunder(r, value) if wrong == len(operators) else value}."]


def right_steps(task, steps):
    """For each step: does it follow from the one before it, as that stands? Reckoned anew, from the text."""
    numbers, operators = task
    value, labels = numbers[0], []
    for step, operator, n in zip(steps, operators, numbers[1:]):
        labels.append(int(step == f"{value} {operator} {n} = {apply(operator, value, n)}"))
        value = int(step.split()[-1])
    return [*labels, int(steps[-1] == f"The answer is {value}.")]
