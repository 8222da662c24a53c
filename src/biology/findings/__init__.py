"""What came out, as a person would say it: findings in sentences, other readings beside them, every scored prompt.

No torch. `sentences.finding` tells one part of a claim, `readings` what other rules and thresholds give, `scored_prompts` the table.
"""
