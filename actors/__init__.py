if __name__ == "actors":
    raise ImportError("import logeion.actors: a second copy of every class would be loaded under the name actors")
