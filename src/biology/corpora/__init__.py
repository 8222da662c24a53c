"""Training corpora of the grown models, and the prompt sets made from them: a synthetic corpus, its twins, a case's prompts.

No torch. `corpus.Corpus` is the corpus of elegans, `twins.twin` gives any other by name, `prompts.prompt_sets` gives a case's
prompts.
"""
