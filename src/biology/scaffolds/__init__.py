"""Helps a beginner to start: copies a case under a new name, examines a model directory, and writes their entries in
config.yaml.

No torch. `new_case.write_case` overwrites nothing; `new_model.inspect_model` and `config_text` write nothing.
"""
