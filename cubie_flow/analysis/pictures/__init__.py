"""Pictures of results: the one room that draws.

Every picture is a function of a dataset that returns a matplotlib figure; `KINDS` names them. No
module here is imported before something is drawn.
"""
