"""The embedded models: grown from a corpus, mechanisms planted, certificates measured, cards written.

`organism.grow` trains one, `planting` adds the losses that make it compute as a mechanism says, and `certificate.certify` measures
whether it does.
"""
