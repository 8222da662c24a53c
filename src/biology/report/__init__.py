"""Pages and texts: what tables and figures say, as HTML that asks nothing of the network and as Markdown.

No torch. A page is a module here and a template in `templates`; `pages` is what all share, `explorer` the interactive graph, `numbers` the
numbers in README.md and docs.
"""
