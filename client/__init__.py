if __name__ == "client":
    raise ImportError("import logeion.client: a second copy of every class would be loaded under the name client")
