"""`config.init`: parameters that start from weights on disk.

`weights.py` reads what there is, `old_vits.py` mends old layouts, `fit.py`
makes them fit the model, `initial.py` puts them where the run keeps them.
"""
