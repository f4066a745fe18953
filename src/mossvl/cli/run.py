def run() -> None:
    """soon"""
