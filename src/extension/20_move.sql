-- Moving rows and authority.  Procedures in C pin search_path and the rest of
-- their session themselves (util/call.c): one with SET could not commit.

CREATE PROCEDURE rehome.start(migration name, slice name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_start';
COMMENT ON PROCEDURE rehome.start(name, name) IS
    'capture, copy, then keep in sync, all by a background worker';

CREATE PROCEDURE rehome.copy(migration name, slice name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_copy';
COMMENT ON PROCEDURE rehome.copy(name, name) IS 'capture and copy, in the foreground';

CREATE PROCEDURE rehome.sync(migration name, slice name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_sync';
COMMENT ON PROCEDURE rehome.sync(name, name) IS
    'catch up now, to a snapshot taken after the call began';

CREATE PROCEDURE rehome.cutover(migration name, slice name DEFAULT NULL, one_way boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_cutover';
COMMENT ON PROCEDURE rehome.cutover(name, name, boolean) IS
    'give the target authority; one_way waives what a rollback would need';

CREATE PROCEDURE rehome.rollback(migration name, slice name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_rollback';
COMMENT ON PROCEDURE rehome.rollback(name, name) IS
    'give the source authority back, with the writes made since cutover';

CREATE PROCEDURE rehome.complete(migration name, slice name DEFAULT NULL, local_only boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_complete';
COMMENT ON PROCEDURE rehome.complete(name, name, boolean) IS
    'point of no return: end reverse capture; the source''s fence stays closed';

CREATE PROCEDURE rehome.cancel(migration name, slice name DEFAULT NULL, local_only boolean DEFAULT false)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_cancel';
COMMENT ON PROCEDURE rehome.cancel(name, name, boolean) IS
    'remove every artefact on both sides, or on this one when the source is gone for good';

CREATE PROCEDURE rehome.recover(migration name DEFAULT NULL)
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_recover';
COMMENT ON PROCEDURE rehome.recover(name) IS
    'end what a crash left between the commits of the two sides, and start missing workers';

CREATE FUNCTION rehome.pause(migration name, slice name DEFAULT NULL, reason text DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_pause';
COMMENT ON FUNCTION rehome.pause(name, name, text) IS 'stop moving rows until resumed';

CREATE FUNCTION rehome.resume(migration name, slice name DEFAULT NULL)
    RETURNS void LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_resume';
COMMENT ON FUNCTION rehome.resume(name, name) IS 'go on after a pause or a restore';

CREATE FUNCTION rehome.verify(migration name, slice name DEFAULT NULL, mode text DEFAULT 'hash',
                              target regclass DEFAULT NULL, sample float8 DEFAULT NULL,
                              seed int DEFAULT 0, filter text DEFAULT NULL,
                              incremental boolean DEFAULT false,
                              OUT slice name, OUT target regclass, OUT source_rows bigint,
                              OUT target_rows bigint, OUT missing bigint, OUT extra bigint,
                              OUT differing bigint, OUT ok boolean, OUT snapshot text,
                              OUT elapsed interval, OUT quarantined bigint, OUT note text)
    RETURNS SETOF record LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'rehome_verify';
COMMENT ON FUNCTION rehome.verify(name, name, text, regclass, float8, int, text, boolean) IS
    'compare source and target at one snapshot: count, hash or rows';

-- What the triggers on target tables call.
CREATE FUNCTION rehome.guard() RETURNS trigger LANGUAGE c
    AS 'MODULE_PATHNAME', 'rehome_guard';
COMMENT ON FUNCTION rehome.guard() IS 'refuses writes to a target while its source has authority';

CREATE PROCEDURE rehome.verify_tables(migration name, slice name DEFAULT NULL, mode text DEFAULT 'hash')
    LANGUAGE c AS 'MODULE_PATHNAME', 'rehome_verify_tables';
COMMENT ON PROCEDURE rehome.verify_tables(name, name, text) IS
    'verify table by table, each in a transaction of its own, going on from what was verified before';

CREATE FUNCTION rehome.capture() RETURNS trigger LANGUAGE c
    AS 'MODULE_PATHNAME', 'rehome_capture';
COMMENT ON FUNCTION rehome.capture() IS 'logs the keys of rows written after cutover';
