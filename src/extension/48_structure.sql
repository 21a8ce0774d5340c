-- Trust, structure: what the catalogs of both sides say about the tables.

CREATE FUNCTION rehome.structure(migration name, slice name DEFAULT NULL, OUT object text, OUT kind text,
                                 OUT source text, OUT target text, OUT intended boolean, OUT explanation text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_structure';
COMMENT ON FUNCTION rehome.structure(name, name) IS
    'where the catalogs of both sides differ about the tables, and whether a rule explains it';
