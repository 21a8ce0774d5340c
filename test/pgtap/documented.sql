-- doc/reference.md names everything there is: functions with their
-- arguments, tables and views with their columns, settings, SQLSTATEs, roles.
-- Run from the top of the tree.
\set ON_ERROR_STOP true
\set QUIET true
\set reference `cat doc/reference.md`
\set errors `grep -o "MAKE_SQLSTATE([^)]*)" src/errors.h | tr -dc 'A-Z0-9\n' | sed 's/MAKESQLSTATE//' | tr '\n' ' '`
BEGIN;
SELECT no_plan();
CREATE TEMP TABLE doc AS SELECT :'reference'::text AS text, :'errors'::text AS errors;
SELECT ok(length(text) > 1000, 'doc/reference.md is there') FROM doc;
LOAD 'pg_rehome';

-- A function has a heading "### rehome.name(...)", or "### rehome.name".
SELECT ok(doc.text ~ format(E'\n#+ `?rehome\\.%s\\y', proname), format('%s is documented', p.oid::regprocedure))
  FROM pg_proc p, doc WHERE pronamespace = 'rehome'::regnamespace AND proname NOT LIKE 'rule\_%' ORDER BY proname;
-- What rules are made of has a line in a table, with the signature.
SELECT ok(strpos(doc.text, format(E'\n| `rehome.%s(%s)` |', proname, pg_get_function_arguments(p.oid))) > 0,
          format('%s is documented', p.oid::regprocedure))
  FROM pg_proc p, doc WHERE pronamespace = 'rehome'::regnamespace AND proname LIKE 'rule\_%' ORDER BY proname;
-- Its part names all its arguments and result columns.
SELECT ok(part ~ format(E'\\y%s\\y', a.name), format('%s: %s is documented', p.oid::regprocedure, a.name))
  FROM doc, pg_proc p, unnest(p.proargnames) AS a(name),
       LATERAL (SELECT substring(doc.text FROM format(E'\n#+ `?rehome\\.%s\\y(.*?)\n#+ ', proname)) AS part) AS x
 WHERE pronamespace = 'rehome'::regnamespace AND proname NOT LIKE 'rule\_%' ORDER BY p.proname, a.name;
-- Tables and views, with all columns.
SELECT ok(part ~ format(E'\\y%s\\y', a.attname), format('%s.%s is documented', c.oid::regclass, a.attname))
  FROM doc, pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped,
       LATERAL (SELECT substring(doc.text FROM format(E'\n#+ `?rehome\\.%s`?\n(.*?)\n#+ ', relname)) AS part) AS x
 WHERE relnamespace = 'rehome'::regnamespace AND relkind IN ('r', 'v') ORDER BY relname, attnum;
-- Settings, with default and limits as shown by pg_settings.
SELECT ok(doc.text ~ format(E'`%s`', replace(name, '.', E'\\.')), format('%s is documented', name))
  FROM doc, pg_settings WHERE name LIKE 'rehome.%' ORDER BY name;
-- SQLSTATEs.
SELECT ok(doc.text ~ format(E'`%s`', state), format('SQLSTATE %s is documented', state))
  FROM doc, unnest(string_to_array(btrim(errors), ' ')) AS state;
SELECT ok(array_length(string_to_array(btrim(errors), ' '), 1) >= 9, 'src/errors.h was read') FROM doc;
-- States and roles.
SELECT ok(doc.text ~ format('`%s`', state), format('state %s is documented', state))
  FROM doc, (SELECT from_state FROM rehome.state_transition UNION SELECT to_state FROM rehome.state_transition) AS s(state) ORDER BY state;
SELECT ok(doc.text ~ format('`%s`', rolname), format('role %s is documented', rolname))
  FROM doc, pg_roles WHERE rolname LIKE 'rehome\_%' ORDER BY rolname;

SELECT * FROM finish();
ROLLBACK;
