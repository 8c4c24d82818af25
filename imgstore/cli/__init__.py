"""The commands of the terminal. Each command of az has one function. Results go to standard output, all else to standard error."""
