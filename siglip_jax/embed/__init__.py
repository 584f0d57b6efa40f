"""Training on stored embeddings of a locked image tower (LiT).

`encode.py` writes the embeddings of a data set, `views.py` makes the images to
encode, `tower.py` says which tower made them.
"""
