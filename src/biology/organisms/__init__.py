"""Models that are grown here: small Llamas trained on a corpus, most with planted mechanisms; their certificates and cards.

`organism.grow` trains a model, `planting` adds the losses that make it compute as a mechanism states, and `certificate.certify`
measures whether it does.
"""
