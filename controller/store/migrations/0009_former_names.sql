-- Names that machines had before they were renamed: whoever is given one is not taken for
-- the machine that had it.
CREATE TABLE former_names (
    name    TEXT NOT NULL,
    machine TEXT NOT NULL,
    PRIMARY KEY (name, machine)
);
