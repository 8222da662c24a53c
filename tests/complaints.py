"""What a command says before it gives up."""

from biology.__main__ import main


def complaint(capsys, *arguments):
    """The one line that a command says before it gives up."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said
