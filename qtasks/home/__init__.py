"""Where tasks and broker meet: the app with its embedded broker, and the standalone server."""
