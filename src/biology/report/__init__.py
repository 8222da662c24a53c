"""Pages and texts: the contents of tables and figures as HTML, which makes no network requests, and as Markdown.

No torch. Each page is a module here and a template in `templates`. `pages` holds what all pages share, `explorer` the interactive
graph, `numbers` the numbers in README.md and docs.
"""
