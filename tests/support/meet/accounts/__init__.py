"""The accounts of the platform in the tests."""
