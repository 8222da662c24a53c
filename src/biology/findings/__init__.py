"""Results in plain sentences, other measurements for comparison, and every scored prompt.

No torch. `sentences.finding` describes one part of a claim, `comparisons` gives results under other rules, `scored_prompts` the
table. `faults` says which part is at fault where a claim is missed.
"""
