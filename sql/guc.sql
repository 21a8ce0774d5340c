--
-- Settings: their defaults, limits and contexts, and who may set them.
--
\set SHOW_CONTEXT never
\set code '\\echo SQLSTATE :LAST_ERROR_SQLSTATE'
LOAD 'pg_rehome';

SELECT name, boot_val, unit, vartype, context, min_val, max_val
  FROM pg_settings WHERE name LIKE 'rehome.%' ORDER BY name;
SELECT name, short_desc, extra_desc
  FROM pg_settings WHERE name LIKE 'rehome.%' ORDER BY name;
-- No other module's settings start with these letters: the view shows all.
SELECT count(*) FROM pg_settings WHERE name LIKE 'rehome%' AND name NOT LIKE 'rehome.%';

-- Units.
SET rehome.chunk_size = '1GB';
SHOW rehome.chunk_size;
SET rehome.lock_timeout = '1.5s';
SHOW rehome.lock_timeout;
SET rehome.freeze_timeout = '2min';
SHOW rehome.freeze_timeout;
RESET ALL;

-- Limits: those that are listed above. Their wording is the server's, and not
-- the same in every major release.
\set VERBOSITY sqlstate
SET rehome.chunk_size = '63kB';
SET rehome.copy_workers = -1;
SET rehome.copy_workers = 65;
SET rehome.copy_workers = 'many';
SET rehome.freeze_timeout = 9;
SET rehome.lock_timeout = 0;
SET rehome.lock_retries = 10001;
SET rehome.max_discrepancies = -1;
\set VERBOSITY default

-- Those that workers read are set in the configuration file.
SET rehome.databases = 'postgres';
:code
SET rehome.launcher_naptime = '1s';
:code
SET rehome.naptime = '1s';
:code
SET rehome.retry_max = '1s';
:code

-- The prefix is ours.
SET rehome.lock_timout = '1s';
:code

-- Whoever is no superuser may say how he waits, but not break things.
CREATE ROLE regress_rehome_nobody;
SET ROLE regress_rehome_nobody;
SET rehome.lock_timeout = '1s';
SHOW rehome.lock_timeout;
SET rehome.debug_point = 'frozen:crash';
:code
RESET ROLE;
DROP ROLE regress_rehome_nobody;

-- A debug point that is not reached does nothing; what it may do is checked
-- when it is.
SET rehome.debug_point = 'nowhere:error';
SET rehome.debug_point = '';
