"""`pytest --slowest 20`: which tests took longest, and what each of them proves."""

import inspect
from collections import Counter
from collections.abc import Iterable

import pytest

PROVES = "proves"


def pytest_addoption(parser):
    parser.addoption("--slowest", type=int, default=0, help="name so many of the slowest tests, and what they prove")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Whoever writes the summary has not read the tests, so each report brings along what its test says of itself."""
    report = yield
    if not any(name == PROVES for name, _ in report.user_properties):
        report.user_properties.append((PROVES, proves(item.name, getattr(item, "obj", None))))
    return report


def pytest_terminal_summary(terminalreporter, config):
    if config.option.slowest:
        reports = [
            one for listed in terminalreporter.stats.values() for one in listed if hasattr(one, "user_properties")
        ]
        terminalreporter.section(f"the slowest {config.option.slowest} tests, with what was made ready for them")
        for line in slowest(reports, config.option.slowest):
            terminalreporter.write_line(line)


def proves(name: str, test) -> str:
    """The name of a test as the sentence that it is, and the first sentence of its docstring, if it has one."""
    said = " ".join((inspect.getdoc(test) or "").split("\n\n")[0].split())
    sentence, _, cases = name.removeprefix("test_").partition("[")
    return f"{sentence.replace('_', ' ')}{f' [{cases}' if cases else ''}{f': {said}' if said else ''}"


def slowest(reports: Iterable[pytest.TestReport], most: int) -> list[str]:
    """A line for each of the tests that took longest, their setup and teardown included."""
    took, told = Counter(), {}
    for report in reports:
        took[report.nodeid] += report.duration
        told[report.nodeid] = dict(report.user_properties).get(PROVES, "")
    return [f"{seconds:6.1f} s  {node.partition('::')[0]}: {told[node]}" for node, seconds in took.most_common(most)]
