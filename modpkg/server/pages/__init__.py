"""The pages of a registry: what they show, as records, and the templates that show it.

Each page is a function from what a registry has to a record, without I/O of its own, and a template
of the same name. What others wrote reaches a page only through the templates, which escape it, or
through `readme`, which lets little through.
"""
