"""The commands: they alone read arguments, and decide what is written where, with which seed and on which device.

`biology.__main__` lists them. Modules of other rooms are imported inside the functions, so that `biology --help` answers at
once and no command imports torch without need. Only `biology.__main__` and `biology.api` import from here.
"""
