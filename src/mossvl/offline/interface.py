class OfflineInterface:
    pass
