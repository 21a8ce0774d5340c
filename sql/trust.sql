--
-- Discrepancies as bugs: one row each however often it is found; classified,
-- accepted by a rule, resolved, reopened; what is open keeps a slice from
-- being cut over.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pg_rehome CASCADE;
SELECT current_setting('unix_socket_directories') AS socket, current_setting('port') AS port,
       current_database() AS dbname \gset
CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'socket', port :'port', dbname :'dbname');
CREATE USER MAPPING FOR CURRENT_USER SERVER loopback;
CREATE SCHEMA old;
CREATE SCHEMA far;
CREATE SCHEMA new;
CREATE TABLE old.sale (id int PRIMARY KEY, day date NOT NULL, state text NOT NULL, total numeric(10,2) NOT NULL);
CREATE TABLE new.sale (LIKE old.sale INCLUDING ALL);
INSERT INTO old.sale SELECT i, '2024-01-01'::date + i, CASE WHEN i % 3 = 0 THEN 'paid' ELSE 'open' END, i * 1.25
  FROM generate_series(1, 60) AS i;
IMPORT FOREIGN SCHEMA old FROM SERVER loopback INTO far;
SELECT rehome.create_migration('m', 'loopback', 'can it be trusted');
SELECT rehome.add_table('m', 'far.sale', 'new.sale');
SET rehome.copy_workers = 0;
CALL rehome.copy('m');

-- Differences that no batch will repair: made behind the guard's back.
CREATE FUNCTION pg_temp.behind(sql text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE new.sale DISABLE TRIGGER ALL;
    EXECUTE sql;
    ALTER TABLE new.sale ENABLE ALWAYS TRIGGER rehome_guard;
    ALTER TABLE new.sale ENABLE ALWAYS TRIGGER rehome_guard_truncate;
END $$;
CREATE FUNCTION pg_temp.d(OUT key jsonb, OUT kind text, OUT columns name[], OUT times int, OUT reopened boolean,
                          OUT resolved boolean, OUT accepted boolean, OUT class text) RETURNS SETOF record LANGUAGE sql AS
$$SELECT key, kind, columns, times, reopened_at IS NOT NULL, resolved_at IS NOT NULL, acceptance IS NOT NULL, class
    FROM rehome.discrepancy WHERE migration = 'm' ORDER BY id$$;
SELECT pg_temp.behind($$UPDATE new.sale SET total = total + 0.01 WHERE id = 1;
                        UPDATE new.sale SET total = total + 100, state = 'lost' WHERE id = 2;
                        DELETE FROM new.sale WHERE id = 3$$);
SELECT missing, extra, differing, ok FROM rehome.verify('m');
SELECT missing, extra, differing, ok FROM rehome.verify('m', mode => 'rows');
SELECT * FROM pg_temp.d();
SELECT min(id) AS id1, max(id) AS id3 FROM rehome.discrepancy WHERE migration = 'm' \gset

-- What is said about them stays with them.
SELECT rehome.classify('m', ARRAY[:id1], 'transformation bug', 'ann', cause => 'rounds up', fix => 'rule of total');
SELECT rehome.classify('m', ARRAY[:id1], decision => 'repair');
SELECT class, owner, cause, decision, fix, blocking FROM rehome.discrepancy WHERE id = :id1;
SELECT rehome.classify('m', ARRAY[:id1], 'bad luck');
:code
SELECT rehome.classify('m', ARRAY[-1, :id1, -2], 'sync lag');
:code
SELECT rehome.classify('m', ARRAY[:id1]);
:code
SELECT rehome.classify('m', '{}', 'sync lag');
:code
SELECT rehome.resolve('m', NULL);
:code
SELECT rehome.accept('m', 'new.sale', ' ');
:code
SELECT rehome.accept('m', 'new.sale', 'why', ARRAY['total', 'no', 'such']::name[]);
:code
SELECT rehome.accept('m', 'old.sale', 'why');
:code
SELECT rehome.accept('m', 'new.sale', 'why', predicate => 'true) OR (SELECT true');
:code
SELECT rehome.accept('m', 'new.sale', 'why', predicate => 'source.nothing = 1');
:code
SELECT rehome.accept('m', 'new.sale', 'why', predicate => 'source.total');
:code
SELECT rehome.revoke_acceptance('m', -1);
:code
SELECT count(*) FROM rehome.acceptance;

-- All that is open keeps the slice from being cut over.
CALL rehome.cutover('m');
:code
-- A rule covers what it says, and hides nothing.
SELECT rehome.accept('m', 'new.sale', 'cents do not matter', ARRAY['total']::name[],
                     'abs(source.total - target.total) < 0.05') AS rule \gset
SELECT * FROM pg_temp.d();
SELECT discrepancies FROM rehome.status WHERE migration = 'm';
CALL rehome.cutover('m');
:code
SELECT rehome.revoke_acceptance('m', :rule);
SELECT discrepancies FROM rehome.status WHERE migration = 'm';
SELECT rehome.accept('m', 'new.sale', 'cents do not matter', ARRAY['total']::name[],
                     'abs(source.total - target.total) < 0.05') IS NOT NULL AS again;
-- Resolved by hand, one that is still there comes back; repaired, it is closed.
SELECT rehome.resolve('m', ARRAY[:id3], 'surely gone');
SELECT rehome.resolve('m', ARRAY[:id3]);
SELECT discrepancies FROM rehome.status WHERE migration = 'm';
SELECT pg_temp.behind($$UPDATE new.sale t SET total = s.total, state = s.state FROM old.sale s WHERE s.id = 2 AND t.id = 2$$);
SELECT missing, extra, differing, ok FROM rehome.verify('m');
SELECT * FROM pg_temp.d();
SELECT what, who = current_user AS me, count(*) FROM rehome.discrepancy_history h GROUP BY 1, 2 ORDER BY 1;
SELECT slice, day = current_date AS today, found, reopened, closed, accepted, open FROM rehome.discrepancy_trend WHERE migration = 'm';
-- Not every one stands in the way.
SELECT rehome.classify('m', ARRAY[:id3], 'source-data problem', blocking => false, decision => 'live with it');
-- A rule that fails accepts nothing, and lets the verification go on.
SELECT rehome.accept('m', 'new.sale', 'by chance', predicate => '1 / (source.id - 51) > 5') AS rule \gset
SELECT pg_temp.behind($$UPDATE new.sale SET total = 0 WHERE id = 51$$);
\set VERBOSITY terse
SELECT missing, extra, differing, ok FROM rehome.verify('m');
\set VERBOSITY default
SELECT key, acceptance FROM rehome.discrepancy WHERE migration = 'm' AND key = '{"id": 51}';
SELECT rehome.revoke_acceptance('m', :rule);
-- More than may be recorded: known ones stay known, the rest is one row that no rule accepts.
SET rehome.max_discrepancies = 2;
SELECT rehome.accept('m', 'new.sale', 'whatever it is') AS all_of_it \gset
SELECT pg_temp.behind($$UPDATE new.sale SET total = 0 WHERE id > 50$$);
SELECT missing, extra, differing, ok FROM rehome.verify('m');
SELECT count(*) FILTER (WHERE acceptance IS NOT NULL) AS accepted, count(*) AS open
  FROM rehome.discrepancy WHERE migration = 'm' AND resolved_at IS NULL;
SELECT kind, key, source_row FROM rehome.discrepancy WHERE migration = 'm' AND acceptance IS NULL AND resolved_at IS NULL;
CALL rehome.cutover('m');
:code
SELECT pg_temp.behind($$UPDATE new.sale t SET total = s.total FROM old.sale s WHERE s.id = t.id AND t.id > 1$$);
SELECT missing, extra, differing, ok FROM rehome.verify('m');
SELECT count(*) FILTER (WHERE acceptance IS NOT NULL) AS accepted, count(*) AS open
  FROM rehome.discrepancy WHERE migration = 'm' AND resolved_at IS NULL;
SELECT rehome.revoke_acceptance('m', :all_of_it);
RESET rehome.max_discrepancies;
-- What is left is accepted, or does not block.
CALL rehome.cutover('m');
SELECT state FROM rehome.status WHERE migration = 'm';
CALL rehome.rollback('m');
CALL rehome.cancel('m');
SELECT rehome.drop_migration('m');
SELECT count(*) FROM rehome.acceptance;

DROP SCHEMA old, far, new CASCADE;
DROP SERVER loopback CASCADE;
TRUNCATE rehome.event, rehome.discrepancy, rehome.discrepancy_history;
