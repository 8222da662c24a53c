"""The embedded models: trained on a corpus, with mechanisms planted, certified, and described in cards.

`organism.grow` trains a model, `planting` adds the losses that make it compute as a mechanism states, and `certificate.certify`
measures whether it does.
"""
