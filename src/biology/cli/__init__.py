"""The commands: they alone read arguments, write files, set seeds and pick devices.

`biology.__main__` lists them. Modules of other rooms are imported inside the functions, so that `biology --help` answers at
once and no command imports torch without need. Only `biology.__main__` and `biology.api` import from here.
"""
