"""The verbs of the command line: options, inputs and printing; nothing else prints."""
