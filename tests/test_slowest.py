"""The slowest tests are named with what they prove, whoever ran them."""

from types import SimpleNamespace

from slowest import PROVES, proves, slowest


def test_a_name_is_read_as_a_sentence_and_the_docstring_follows():
    def test_sums_add_up(): ...

    def test_more():
        """Of any two
        numbers.

        More of it.
        """

    assert proves("test_sums_add_up[1-2]", test_sums_add_up) == "sums add up [1-2]"
    assert proves("test_more", test_more) == "more: Of any two numbers."


def test_what_is_made_ready_for_a_test_counts_as_its_time():
    said = [(PROVES, "one says so")], [(PROVES, "two says so")]
    phases = [
        ("a.py::one", 1.0, said[0]),
        ("a.py::two", 2.0, said[1]),
        ("a.py::one", 1.5, said[0]),
        ("b.py::three", 0.1, []),
    ]
    reports = [SimpleNamespace(nodeid=node, duration=took, user_properties=told) for node, took, told in phases]
    assert slowest(reports, 2) == ["   2.5 s  a.py: one says so", "   2.0 s  a.py: two says so"]
