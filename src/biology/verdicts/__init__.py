"""From evidence to verdicts: registration, statistics of parts, the decision rule, and the validation of verdicts.

No torch. `measuring.measure` and `claims.judge_all` judge; `registration` binds claims by hashes; `robustness`, `discrimination`
and `calibration` compare verdicts with those on seeds and twins and with planted truth; `procedure` and `coverage` simulate the
rule.
"""
