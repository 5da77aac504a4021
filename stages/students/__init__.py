"""Student architectures and their initialisation from a teacher's layers."""
