"""From evidence to verdicts: registration, statistics of parts, the decision rule, and what verdicts are worth.

No torch. `measuring.measure` and `claims.judge_all` judge; `registration` binds claims by hashes; `robustness`, `discrimination` and
`calibration` hold verdicts against seeds, twins and planted truth; `procedure` and `coverage` simulate the rule.
"""
