"""``flags``: the flags of ``serve`` and ``plan`` as tables, their parser and their documents."""
