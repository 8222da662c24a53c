"""What models are grown on, and the prompt sets made from it: a synthetic corpus, its twins, prompts of a case.

No torch. `corpus.Corpus` is the one of elegans, `twins.twin` gives any other by name, `prompts.prompt_sets` writes a case's prompts.
"""
