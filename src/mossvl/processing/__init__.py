"""From images, videos and messages to model inputs."""
