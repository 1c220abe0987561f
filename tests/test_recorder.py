"""The recorder over real sockets, from the command line, and over days of virtual time."""



