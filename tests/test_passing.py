"""A prompt can be asked where it and all that it is measured against are answered."""

import pandas as pd

from biology.verdicts.passing import passing


def test_prompts_are_counted_by_set_and_split_with_what_is_said_instead():
    def row(item, split, correct, with_donor, top1, template, role="score"):
        return {
            "item": item, "set": "calc", "split": split, "role": role, "correct": correct, "top1": top1,
            "correct_with_donor": with_donor, "donor": "x", "template": template,
        }  # fmt: skip

    prompts = pd.DataFrame(
        [
            row("a", "heldout", True, True, "7", "0"),
            row("b", "heldout", True, False, "8", "1"),
            row("c", "heldout", False, False, "1", "2"),
            row("d", "heldout", False, False, "0", "2"),
            row("e", "heldout", False, False, "1", "2"),
            row("f", "dev", True, True, "9", "3"),
            row("g", "heldout", True, True, "7", "4", role="select"),
        ]
    )
    found = passing("addition", prompts).set_index("split")
    assert found.loc["heldout", ["prompts", "answered", "with_donors", "templates"]].tolist() == [5, 2, 1, 1]
    assert found.loc["heldout", "said_instead"] == "'1' 2, '0' 1"
    assert found.loc["dev", ["prompts", "answered", "with_donors"]].tolist() == [1, 1, 1]
