"""The front of a server with several replicas: it takes requests, chooses a replica for each, and passes bytes on."""
