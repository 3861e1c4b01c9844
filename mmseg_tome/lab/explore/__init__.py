"""`mmseg-tome explore`: see on one's own images what merges, and what that changes.

`settings`, `comparing` and `pictures` do the work and know nothing of a page; `page` is Gradio's.
"""
