"""What a beginner starts from: a case copied under a new name, a model directory looked at, and their entries in config.yaml.

No torch. `new_case.write`, `new_model.look` and `config_text` put nothing anywhere that is there already.
"""
