-- What leads have signed about machines that are retired: the machine gets it when it comes.
CREATE TABLE retirements (
    machine  TEXT PRIMARY KEY NOT NULL,
    envelope BLOB NOT NULL
);
