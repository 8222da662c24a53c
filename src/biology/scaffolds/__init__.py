"""Helps a beginner to start: copies a case under a new name, examines a model directory, writes their entries in
config.yaml, and says to editors (`case_schema`) and readers (`case_words`) what a case file may hold.

No torch. `new_case.write_case` overwrites nothing; `new_model.inspect_model` and `config_text` write nothing.
"""
