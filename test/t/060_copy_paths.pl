# The copy: the fast path and the general path give the same rows; chunks, with
# and without workers; a copy that fails goes on where it stopped, whatever was
# written, moved or rewritten at the source meanwhile; a cancelled one leaves
# nothing.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(target_conf => "max_worker_processes = 16\nallow_in_place_tablespaces = on");
my ($source, $target) = ($pair->source, $pair->target);
my $timeout = $PostgreSQL::Test::Utils::timeout_default;

# Small chunks, so that small tables have many.
my $small = q{SET rehome.chunk_size = '64kB';};

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $timeout) }

# The maps of a migration: a schema at the source, one of the same name here.
sub define
{
	my ($migration, $schema, $target_schema) = @_;
	$target_schema //= $schema;
	$pair->sql_target(qq{SELECT rehome.create_migration('$migration', 'src', 'a copy'); SELECT rehome.add_schema('$migration', '$schema', '$target_schema')});
	return;
}

# Cancelled and forgotten; its rows go too.
sub forget
{
	my ($migration, @targets) = @_;
	call("CALL rehome.cancel('$migration')");
	$pair->sql_target("SELECT rehome.drop_migration('$migration'); TRUNCATE " . join ', ', @targets);
	return;
}

# A source before 14 gets one chunk a table.
my $cut = $pair->source_version >= 140000;

sub chunks
{
	my ($migration, $what, $where) = @_;
	return $pair->sql_target(qq{SELECT $what FROM rehome.chunk c JOIN rehome.table_map t ON t.id = c.table_map_id
		JOIN rehome.slice s ON s.id = t.slice_id JOIN rehome.migration m ON m.id = s.migration_id
		WHERE m.name = '$migration' AND } . ($where // 'true'));
}

# ---------------------------------------------------------------------------
# Two paths, the same rows.

my $columns = q{
	id integer GENERATED ALWAYS AS IDENTITY,
	gone text,
	part integer NOT NULL,
	v text,
	big text,
	n numeric(10, 2) CHECK (n < 1e7),
	tags text[],
	at timestamptz,
	blob bytea,
	f double precision,
	doubled integer GENERATED ALWAYS AS (part * 2) STORED};
$pair->sql_source(qq{
	CREATE SCHEMA paths;
	CREATE TABLE paths.t ($columns, PRIMARY KEY (id, part));
	ALTER TABLE paths.t DROP gone;
	INSERT INTO paths.t (part, v, big, n, tags, at, blob, f)
	SELECT i % 7, CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN '\\N' WHEN 3 THEN E'tab\\tline\\nback\\\\slash' ELSE 'value ' || i END,
	       CASE WHEN i % 100 = 0 THEN (SELECT string_agg(md5(i || ' ' || n), '') FROM generate_series(1, 300) AS n) END,
	       i / 7.0, ARRAY['a' || i, NULL, 'c,"d"'], timestamptz '2024-03-31 00:59:59.999999+00' + i * interval '1 hour',
	       decode(md5(i::text), 'hex'), CASE i % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' ELSE sqrt(i) END
	  FROM generate_series(1, 3000) AS i;
	DELETE FROM paths.t WHERE id % 11 = 0;});
$pair->import_foreign_schema('paths', 'paths_at_source', 't');

# Columns that are not mapped take their defaults.
my $own = q{, copied boolean NOT NULL DEFAULT true, empty text, label text DEFAULT 'label ' || 1 + 1, lower_v text,
	CHECK (copied), UNIQUE (id, part, at)};
my %make = (
	plain       => "CREATE TABLE %s ($columns, PRIMARY KEY (id, part) $own)",
	partitioned => "CREATE TABLE %1\$s ($columns, PRIMARY KEY (id, part) $own) PARTITION BY LIST (part);
		CREATE TABLE %1\$s_0 PARTITION OF %1\$s FOR VALUES IN (0, 1, 2) PARTITION BY RANGE (id);
		CREATE TABLE %1\$s_0_low PARTITION OF %1\$s_0 FOR VALUES FROM (MINVALUE) TO (1000);
		CREATE TABLE %1\$s_0_high PARTITION OF %1\$s_0 FOR VALUES FROM (1000) TO (MAXVALUE);
		CREATE TABLE %1\$s_d PARTITION OF %1\$s DEFAULT",
	rule => "CREATE TABLE %1\$s ($columns, PRIMARY KEY (id, part) $own);
		CREATE RULE note AS ON INSERT TO %1\$s DO ALSO INSERT INTO paths.noted VALUES ('rule');
		ALTER TABLE %1\$s ENABLE ALWAYS RULE note",
	trigger => "CREATE TABLE %1\$s ($columns, PRIMARY KEY (id, part) $own);
		CREATE TRIGGER note AFTER INSERT ON %1\$s FOR EACH ROW EXECUTE FUNCTION paths.note('trigger');
		ALTER TABLE %1\$s ENABLE ALWAYS TRIGGER note",
	before => "CREATE TABLE %1\$s ($columns, PRIMARY KEY (id, part) $own);
		CREATE TRIGGER note BEFORE INSERT ON %1\$s FOR EACH ROW EXECUTE FUNCTION paths.note('before');
		ALTER TABLE %1\$s ENABLE REPLICA TRIGGER note",
	silent => "CREATE TABLE %1\$s ($columns, PRIMARY KEY (id, part) $own);
		CREATE TRIGGER note BEFORE INSERT ON %1\$s FOR EACH ROW EXECUTE FUNCTION paths.note('silent');
		CREATE RULE note AS ON INSERT TO %1\$s DO ALSO INSERT INTO paths.noted VALUES ('silent');");
$pair->sql_target(q{
	CREATE SCHEMA paths;
	CREATE TABLE paths.noted (what text);
	CREATE FUNCTION paths.note() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO paths.noted VALUES (TG_ARGV[0]); RETURN NEW; END $$;});
my $rows = $pair->sql_source('SELECT count(*) FROM paths.t');
my @mapped = qw(id part v big n tags at blob f doubled);
my $list = join ', ', @mapped;
sub define_path
{
	my ($path) = @_;
	$pair->sql_target(qq{
		SELECT rehome.create_migration('$path', 'src', 'one of the paths');
		SELECT rehome.add_table('$path', 'paths_at_source.t', 'paths.$path');
		SELECT rehome.map_column('$path', 'paths.$path', 'lower_v', 'lower(v) || part')});
	return;
}
for my $path (sort keys %make)
{
	$pair->sql_target(sprintf($make{$path}, "paths.$path") . "; ALTER TABLE paths.$path DROP gone");
	define_path($path);
	call("$small CALL rehome.copy('$path')");
	my $n = chunks($path, 'count(*)');
	ok($cut ? $n > 5 : $n == 1, "target '$path': copied in chunks, where the source can be") or diag("$n chunks");
	same_content($pair,
		[ { source => "(SELECT $list, true AS copied, NULL::text AS empty, 'label 2' AS label, lower(v) || part FROM paths.t)",
			target => "(SELECT $list, copied, empty, label, lower_v FROM paths.$path)" } ],
		"target '$path': every row as it should be");
	call("CALL rehome.cancel('$path')");
	$pair->sql_target("SELECT rehome.drop_migration('$path')");
}
is($pair->sql_target(q{SELECT string_agg(what || ' ' || n, ', ' ORDER BY what) FROM (SELECT what, count(*) AS n FROM paths.noted GROUP BY what) AS c}),
	join(', ', map { "$_ $rows" } qw(before rule trigger)), 'triggers and rules that fire in replica role have fired once a row, the others not');
is($pair->sql_target('SELECT count(DISTINCT md5) FROM (' . join(' UNION ALL ', map {
		"SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM paths.$_ AS t" } sort keys %make) . ') AS p'),
	'1', 'all paths give the same rows');

# A row that a constraint refuses is refused by both.
$pair->sql_target(q{CREATE DOMAIN paths.never AS text CHECK (VALUE <> 'value 10043')});
for my $path (qw(plain partitioned))
{
	for my $wrong (
		[ 'CHECK',     '23514', "ADD CONSTRAINT wrong CHECK (v <> 'value 1004')", 'DROP CONSTRAINT wrong' ],
		[ 'NOT NULL',  '23502', q{ALTER lower_v SET NOT NULL, ALTER lower_v SET DEFAULT ''},                   'ALTER lower_v DROP NOT NULL, ALTER lower_v DROP DEFAULT' ],
		[ 'its domain', '23514', 'ALTER lower_v TYPE paths.never',                'ALTER lower_v TYPE text' ])
	{
		my ($what, $code, $alter, $undo) = @$wrong;
		$pair->sql_target("TRUNCATE paths.$path; ALTER TABLE paths.$path $alter");
		define_path($path);
		is((sqlstate_of($target, "$small SET rehome.copy_workers = 0; CALL rehome.copy('$path')"))[0],
			$code, "target '$path': a row that violates $what is refused");
		forget($path, "paths.$path");
		$pair->sql_target("ALTER TABLE paths.$path $undo");
	}
}

# ---------------------------------------------------------------------------
# Chunks and workers.

$pair->sql_source(q{
	CREATE SCHEMA many;
	CREATE TABLE many.large (id integer PRIMARY KEY, v text);
	CREATE TABLE many.parted (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE many.parted_1 PARTITION OF many.parted FOR VALUES FROM (0) TO (1500);
	CREATE TABLE many.parted_2 PARTITION OF many.parted FOR VALUES FROM (1500) TO (10000);
	CREATE TABLE many.small (id integer PRIMARY KEY, large integer REFERENCES many.large);
	CREATE TABLE many.none (id integer PRIMARY KEY);});
# A row that is to be refused comes last: when its turn comes, other chunks are done.
sub fill
{
	my ($bad) = @_;
	$bad //= 0;
	$pair->sql_source(qq{
		ALTER TABLE many.large DROP COLUMN IF EXISTS extra;
		TRUNCATE many.large, many.parted, many.small;
		INSERT INTO many.large SELECT i, CASE WHEN i = $bad THEN 'bad' ELSE repeat(md5(i::text), 5) END FROM generate_series(1, 6000) AS i;
		INSERT INTO many.parted SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 3000) AS i;
		INSERT INTO many.small SELECT i, i FROM generate_series(1, 9) AS i;});
	return;
}
fill();
$pair->sql_target(q{
	CREATE SCHEMA many;
	CREATE TABLE many.large (id integer PRIMARY KEY, v text);
	CREATE INDEX large_v ON many.large (v) WITH (fillfactor = 70);
	CREATE UNIQUE INDEX large_u ON many.large (left(v, 32), id) WHERE id > 10;
	COMMENT ON INDEX many.large_v IS 'a comment';
	ALTER TABLE many.large ADD CONSTRAINT large_x EXCLUDE USING btree (id WITH =);
	COMMENT ON CONSTRAINT large_x ON many.large IS 'another comment';
	ALTER TABLE many.large CLUSTER ON large_v;
	ALTER TABLE many.large REPLICA IDENTITY USING INDEX large_pkey;
	CREATE TABLE many.parted (id integer PRIMARY KEY, v text);
	CREATE TABLE many.small (id integer PRIMARY KEY, large integer REFERENCES many.large);
	CREATE TABLE many.none (id integer PRIMARY KEY);});
my @many = qw(many.large many.parted many.small many.none);
my $before = schema_dump($target, 'postgres', '-n', 'many');
for my $workers (0, 1, 4)
{
	define('m', 'many');
	call("$small SET rehome.copy_workers = $workers; CALL rehome.copy('m')");
	same_content($pair, \@many, "$workers workers: the same content");
	is(chunks('m', ($cut ? 'count(*) > 20 AND count(lo) > 15' : 'count(*) = 5 AND count(lo) = 0') . q{ AND bool_and(done_at IS NOT NULL) AND count(DISTINCT part_table) = 5}), 't',
		"$workers workers: chunks of five tables, many where the source can be cut, all done");
	is(chunks('m', 'sum(rows)'), '9009', "$workers workers: each row was copied once");
	is($pair->sql_target(q{SELECT state FROM rehome.status WHERE migration = 'm'}), 'syncing', "$workers workers: the state is syncing");
	forget('m', @many);
	is(schema_dump($target, 'postgres', '-n', 'many'), $before, "$workers workers: cancelled, the target's schema is as it was");
}
# Without copy workers it is the sync worker that copies, when it leads.
$pair->sql_target(q{LOAD 'pg_rehome'; ALTER SYSTEM SET rehome.copy_workers = 0});
$target->reload;
define('m', 'many');
call(q{CALL rehome.start('m')});
ok($pair->wait_for_state('m', 'syncing'), 'no copy workers in the configuration: rehome.start() gets to the end all the same');
same_content($pair, \@many, 'no copy workers in the configuration: the same content');
forget('m', @many);
$pair->sql_target('ALTER SYSTEM RESET rehome.copy_workers');
$target->reload;
define('m', 'many');
call(q{SET rehome.chunk_size = '1GB'; CALL rehome.copy('m')});
is(chunks('m', 'count(*), count(lo)'), '5|0', 'with large chunks it is one a table');
same_content($pair, \@many, 'and the content is the same');
forget('m', @many);

# ---------------------------------------------------------------------------
# A copy that fails, and goes on.

# Writes that move rows between chunks that are done and chunks that are not.
my $stir = q{
	UPDATE many.large SET id = id + 100000 WHERE id % 97 = 0;
	UPDATE many.large SET id = 1000000 - id WHERE id % 89 = 0;
	DELETE FROM many.large WHERE id BETWEEN 10 AND 60 AND id > 10;
	DELETE FROM many.large WHERE id BETWEEN 5800 AND 5850;
	INSERT INTO many.large SELECT i, 'new ' || i FROM generate_series(5800, 5820) AS i;
	INSERT INTO many.large SELECT i, 'new ' || i FROM generate_series(20000, 20100) AS i;
	UPDATE many.large SET v = 'updated ' || v WHERE id % 83 = 0;
	UPDATE many.parted SET id = id + 3001 WHERE id % 53 = 0;
	UPDATE many.parted SET id = id - 3001 WHERE id BETWEEN 3100 AND 3200;
	VACUUM many.large, many.parted;
	INSERT INTO many.large SELECT i, 'into free space ' || i FROM generate_series(21000, 21100) AS i;
	UPDATE many.large SET v = v || '!' WHERE id % 79 = 0;};
my $done = q{string_agg(c.id || ' ' || c.done_at, ', ' ORDER BY c.id)};

for my $workers (0, 4)
{
	fill(5990);
	$pair->sql_target(q{ALTER TABLE many.large ADD CONSTRAINT no_bad CHECK (v <> 'bad')});
	define('m', 'many');
	my ($sqlstate, $message, $detail, $hint) = sqlstate_of($target, "$small SET rehome.copy_workers = $workers; CALL rehome.copy('m')");
	if ($workers == 0)
	{
		is($sqlstate, '23514', 'a copy in the session fails with the error of the row');
		like($detail, qr/5990, bad/, 'which names the row');
	}
	else
	{
		is($sqlstate, 'RH007', 'a copy by workers fails as incomplete');
		like($detail, qr/violates check constraint "no_bad"/, 'and names the error of the row');
		like($hint, qr/CALL rehome\.copy\('m'/, 'and says how to go on');
		like($pair->sql_target(q{SELECT error FROM rehome.status WHERE migration = 'm'}), qr/no_bad/, 'the status shows the error');
	}
	is($pair->sql_target(q{SELECT state || ' ' || authority FROM rehome.status WHERE migration = 'm'}), 'copying source', "$workers workers: the state is copying");
	my $were_done = chunks('m', $done, 'done_at IS NOT NULL');
	cmp_ok(chunks('m', 'count(*)', 'done_at IS NOT NULL'), '>', 5, "$workers workers: some chunks are done") if $cut;
	cmp_ok(chunks('m', 'count(*)', 'done_at IS NULL'), '>', 0, "$workers workers: some are not");
	is((sqlstate_of($target, 'INSERT INTO many.none VALUES (1)'))[0], '25006', "$workers workers: meanwhile the target refuses writes");

	is((sqlstate_of($target, "SET rehome.copy_workers = $workers; CALL rehome.copy('m')"))[0], $sqlstate, "$workers workers: as long as nothing is done about it, it fails again");
	$pair->sql_source($stir);
	$were_done = chunks('m', $done, 'done_at IS NOT NULL');
	# Put right at the source one time, at the target the other.
	$pair->sql_source(q{UPDATE many.large SET v = 'good' WHERE id = 5990}) if $workers == 0;
	$pair->sql_target(q{ALTER TABLE many.large DROP CONSTRAINT no_bad}) if $workers != 0;
	call("SET rehome.copy_workers = $workers; CALL rehome.copy('m')");
	is($pair->sql_target(q{SELECT state, error IS NULL FROM rehome.status WHERE migration = 'm'}), 'syncing|t', "$workers workers: put right, the copy ends");
	my %now = map { /^(\d+) (.*)/ ? ($1 => $2) : () } split /, /, chunks('m', $done);
	my @again = grep { /^(\d+) (.*)/ && ($now{$1} // '') ne $2 } split /, /, $were_done;
	is("@again", '', "$workers workers: no chunk that was done was copied again");
	call(q{CALL rehome.sync('m')});
	same_content($pair, \@many, "$workers workers: no row is missing, none is there twice");
	$pair->sql_target(q{ALTER TABLE many.large DROP CONSTRAINT IF EXISTS no_bad});
	forget('m', @many);
	is(schema_dump($target, 'postgres', '-n', 'many'), $before, "$workers workers: the target's schema is as it was");
}

# A table rewritten as a whole between failure and resumption begins anew, alone.
for my $rewrite ('VACUUM FULL many.large', 'TRUNCATE many.large CASCADE', 'ALTER TABLE many.large ADD extra double precision DEFAULT random()', 'CLUSTER many.large USING large_pkey')
{
	fill(5990);
	$pair->sql_target(q{ALTER TABLE many.large ADD CONSTRAINT no_bad CHECK (v <> 'bad')});
	define('m', 'many');
	sqlstate_of($target, "$small SET rehome.copy_workers = 2; CALL rehome.copy('m')");
	# CASCADE takes the rows of small as well
	my $others = chunks('m', $done, q{done_at IS NOT NULL AND part_table NOT IN ('large', 'small')});
	cmp_ok(chunks('m', 'count(*)', q{done_at IS NOT NULL AND part_table = 'large'}), '>', 5, "$rewrite: chunks were done") if $cut;
	my $last = chunks('m', 'max(c.id)');
	$pair->sql_source($stir) if $rewrite !~ /CLUSTER/;
	$pair->sql_source("UPDATE many.large SET v = 'good' WHERE id = 5990");
	$pair->sql_source($rewrite);
	$pair->sql_source(q{INSERT INTO many.large SELECT i, 'after' FROM generate_series(7000, 7010) AS i; UPDATE many.large SET id = 7020 WHERE id = 7001});
	call(q{CALL rehome.copy('m')});
	call(q{CALL rehome.sync('m')});
	same_content($pair, [ '(SELECT id, v FROM many.large)', @many[ 1 .. $#many ] ], "$rewrite: no row is missing, none is there twice");
	is(chunks('m', 'count(*)', "part_table = 'large' AND c.id <= $last"), '0', "$rewrite: the copy of the table has begun anew");
	my %now = map { /^(\d+) (.*)/ ? ($1 => $2) : () } split /, /, chunks('m', $done);
	is(join(' ', grep { /^(\d+) (.*)/ && ($now{$1} // '') ne $2 } split /, /, $others), '', "$rewrite: the chunks of other tables were not copied again");
	$pair->sql_target(q{ALTER TABLE many.large DROP CONSTRAINT no_bad});
	forget('m', @many);
}

# A partition more between failure and resumption.
fill(6000);
$pair->sql_target(q{ALTER TABLE many.large ADD CONSTRAINT no_bad CHECK (v <> 'bad')});
define('m', 'many');
sqlstate_of($target, "$small SET rehome.copy_workers = 0; CALL rehome.copy('m')");
$pair->sql_source(q{UPDATE many.large SET v = 'good' WHERE id = 6000;
	
	CREATE TABLE many.parted_3 (LIKE many.parted INCLUDING ALL); INSERT INTO many.parted_3 SELECT i, 'third' FROM generate_series(10000, 10010) AS i;
	ALTER TABLE many.parted ATTACH PARTITION many.parted_3 FOR VALUES FROM (10000) TO (20000); DROP TABLE many.parted_1});
call(q{CALL rehome.copy('m')});
call(q{CALL rehome.sync('m')});
same_content($pair, \@many, 'a partition attached and one dropped while the copy was interrupted');
$pair->sql_target(q{ALTER TABLE many.large DROP CONSTRAINT no_bad});
forget('m', @many);

# ---------------------------------------------------------------------------
# Interrupted and cancelled.

sub nothing_left
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($pair->sql_target(q{SELECT state, authority FROM rehome.status WHERE migration = 'm'}), 'cancelled|source', "$name: the state is cancelled");
	is(schema_dump($target, 'postgres', '-n', 'many'), $before, "$name: the target's indexes and constraints are back, our triggers gone");
	is($pair->sql_target('SELECT ' . join ' + ', map { "(SELECT count(*) FROM $_)" } @many), '0', "$name: no row of the unfinished copy is left");
	is($pair->sql_target(q{SELECT count(*) FROM pg_class WHERE relnamespace = 'rehome_change'::regnamespace}), '0', "$name: no change table");
	is($pair->sql_source(q{SELECT to_regnamespace('rehome_source') IS NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'rehome%')}),
		't', "$name: nothing at the source");
	ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_rehome%' AND backend_type <> 'pg_rehome launcher')}),
		"$name: no worker is left");
	$pair->sql_source('INSERT INTO many.none VALUES (1); DELETE FROM many.none');
	$pair->sql_target(q{SELECT rehome.drop_migration('m'); INSERT INTO many.none VALUES (1); DELETE FROM many.none});
	return;
}

# In the middle of a chunk: the cancel waits for that.
for my $point (qw(capture-installed chunks-planned chunk-loaded))
{
	define('m', 'many');
	my $lock = hold_lock($target, debug_lock());
	my $copy = start_psql($target, "$small CALL rehome.copy('m')", debug_point => "$point:wait", options => '-c rehome.copy_workers=0');
	ok(wait_for_lock_waiter($target, debug_lock()), "a copy is stopped at $point");
	my $cancel = start_psql($target, q{CALL rehome.cancel('m')}, name => 'canceller');
	ok(wait_until($target, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'canceller' AND wait_event_type = 'Lock')
			OR EXISTS (SELECT FROM rehome.slice WHERE state = 'cancelled')}), "$point: the cancel waits, or is done");
	$lock->quit;
	is(finish_psql($cancel)->{sqlstate}, '00000', "$point: then it goes through");
	isnt(finish_psql($copy)->{sqlstate}, '00000', "$point: the copy says that it did not end well");
	nothing_left($point);
}

# DDL at the source waits for the leader's lock, and whoever reads the table
# waits behind the DDL: workers that did, too, would wait for ever.
define('m', 'many');
my $lock = hold_lock($target, debug_lock());
my $copy = start_psql($target, "$small CALL rehome.copy('m')", debug_point => 'chunks-planned:wait', options => '-c rehome.copy_workers=3');
ok(wait_for_lock_waiter($target, debug_lock()), 'a copy is stopped before its workers start');
my $ddl = start_psql($source, 'BEGIN; LOCK TABLE many.large IN ACCESS EXCLUSIVE MODE; ROLLBACK', name => 'ddl');
ok(wait_until($source, q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'ddl' AND wait_event_type = 'Lock')}), 'DDL waits for it at the source');
$lock->quit;
my $result = finish_psql($copy);
is($result->{sqlstate}, 'RH007', 'workers do not wait behind the DDL, and the copy breaks off');
like($result->{stderr}, qr/canceling statement due to lock timeout/, 'it says why');
ok(wait_until($target, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'pg_rehome copy%')}), 'no worker is left at the target');
ok(wait_until($source, q{SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'pg_rehome%')}), 'nor a session at the source');
is(finish_psql($ddl)->{sqlstate}, '00000', 'the DDL goes through');
is($pair->sql_target(q{SELECT state FROM rehome.status}), 'copying', 'the state is copying');
call(q{CALL rehome.copy('m')});
same_content($pair, \@many, 'the copy is resumed and complete');
is($pair->sql_target(q{SELECT count(*) FROM rehome.saved_object WHERE rebuilt_at IS NULL}), '0', 'with all indexes');

# ---------------------------------------------------------------------------
# What the database sets for its sessions changes nothing.
{
	my $table = q{CREATE SCHEMA as_set; CREATE TABLE as_set.t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text UNIQUE, n int[], d xml)};
	$pair->sql_source(qq{$table; INSERT INTO as_set.t (v, n, d) SELECT 'v' || i, '{1,NULL}', xmlparse(content 'a<b/>') FROM generate_series(1, 100) i});
	$pair->sql_target(qq{$table; CREATE INDEX ON as_set.t (lower(v)) WHERE id > 3});
	my %setting = (quote_all_identifiers => 'on', default_tablespace => 'disk', xmloption => 'document', array_nulls => 'off');
	my $indexes = q{SELECT string_agg(c.relname || ' ' || c.reltablespace || ' ' || indisvalid, ', ' ORDER BY c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = 'as_set.t'::regclass};
	my $before = $pair->sql_target($indexes);
	define('as_set', 'as_set');
	my $hash = $pair->sql_target(q{SELECT rehome.definition_hash('as_set')});
	$pair->sql_target(q{CREATE TABLESPACE disk LOCATION ''});
	$pair->sql_target(join ';', map { "ALTER DATABASE postgres SET $_ = $setting{$_}" } sort keys %setting);
	is($pair->sql_target(q{SELECT rehome.definition_hash('as_set')}), $hash, 'settings of the database: the definition is what it was');
	call(q{CALL rehome.copy('as_set')});
	is($pair->sql_target($indexes), $before, 'settings of the database: the indexes are where they were');
	is($pair->sql_target(q{SELECT string_agg("check" || ' ' || detail, '; ') FROM rehome.preflight('as_set') WHERE severity = 'error'}), '', 'settings of the database: preflight finds the way back');
	$pair->sql_source(q{INSERT INTO as_set.t (v, n, d) VALUES ('later', '{NULL}', xmlparse(content 'c'))});
	call(q{CALL rehome.cutover('as_set')});
	same_content($pair, ['as_set.t'], 'settings of the database: the rows are the same');
	is((sqlstate_of($target, q{INSERT INTO as_set.t (v) VALUES ('here')}))[0], '00000', 'settings of the database: the sequence has come along');
	call(q{CALL rehome.rollback('as_set')});
	is($pair->sql_source(q{SELECT count(*) FROM as_set.t WHERE v = 'here'}), 1, 'settings of the database: and back');
	$pair->sql_target(join ';', map { "ALTER DATABASE postgres RESET $_" } sort keys %setting);
	forget('as_set', 'as_set.t');
}

# ---------------------------------------------------------------------------
# A copy that was begun is given up: what is to be put back needs what another
# slice has taken off, or the source is gone.
{
	my $tables = q{CREATE SCHEMA up; CREATE TABLE up.parent (id int PRIMARY KEY, v text); CREATE TABLE up.child (id int PRIMARY KEY, parent int)};
	$pair->sql_source(qq{$tables; INSERT INTO up.parent SELECT i, 'p' FROM generate_series(1, 10) i; INSERT INTO up.child SELECT i, i FROM generate_series(1, 10) i});
	$pair->sql_target(qq{$tables; ALTER TABLE up.child ADD FOREIGN KEY (parent) REFERENCES up.parent; CREATE INDEX ON up.child (parent)});
	my $before = schema_dump($target, 'postgres', '-n', 'up');
	$pair->import_foreign_schema('up', 'up_far');
	my $define = q{SELECT rehome.create_migration('up', 'src', 'x'); SELECT rehome.add_slice('up', 'second');
		SELECT rehome.add_table('up', 'up_far.child', 'up.child'); SELECT rehome.add_table('up', 'up_far.parent', 'up.parent', slice => 'second')};
	my $break = sub { is(finish_psql(start_psql($target, "CALL rehome.copy('up', '$_')", debug_point => 'chunks-planned:error'))->{sqlstate}, 'XX000', "the copy of slice $_ breaks off") for qw(main second) };

	$pair->sql_target($define);
	$break->();
	isnt(schema_dump($target, 'postgres', '-n', 'up'), $before, 'both slices have taken off what keeps a load');
	my $result = finish_psql(start_psql($target, q{CALL rehome.cancel('up')}));
	is($result->{sqlstate}, '00000', 'both are cancelled');
	unlike($result->{stderr}, qr/could not be rebuilt/, 'and nothing is complained of');
	is(schema_dump($target, 'postgres', '-n', 'up'), $before, 'the foreign key has come back after the key it refers to');
	$pair->sql_target(q{SELECT rehome.drop_migration('up')});

	# what cannot come back is told of once more before it is forgotten
	$pair->sql_target($define);
	$break->();
	$result = finish_psql(start_psql($target, q{CALL rehome.cancel('up', 'main')}));
	like($result->{stderr}, qr/WARNING:.*child_parent_fkey.*could not be rebuilt/, 'one slice is cancelled: its foreign key cannot come back');
	call(q{CALL rehome.cancel('up', 'second')});
	$result = finish_psql(start_psql($target, q{SELECT rehome.drop_migration('up')}));
	like($result->{stderr}, qr/WARNING:.*DETAIL:.*child_parent_fkey.*FOREIGN KEY/s, 'the definition is told when the migration is forgotten');
	like($pair->sql_target(q{SELECT detail FROM rehome.event WHERE kind = 'dropped' ORDER BY id DESC LIMIT 1}), qr/not_rebuilt.*FOREIGN KEY \(parent\) REFERENCES up\.parent/, 'and is in the event');
	$pair->sql_target(q{ALTER TABLE up.child ADD FOREIGN KEY (parent) REFERENCES up.parent});
	is(schema_dump($target, 'postgres', '-n', 'up'), $before, 'by it everything is as it was');

	# a source that is gone
	$pair->sql_target($define);
	$break->();
	$source->stop;
	my $state = q{SELECT string_agg(state, ' ' ORDER BY slice) FROM rehome.status WHERE migration = 'up'};
	is((sqlstate_of($target, q{CALL rehome.cancel('up')}))[0], '08001', 'a source that is gone: it cannot be asked');
	is($pair->sql_target($state), 'copying copying', 'a source that is gone: nothing has changed');
	$result = finish_psql(start_psql($target, q{CALL rehome.cancel('up', local_only => true)}));
	is($result->{sqlstate}, '00000', 'a source that is gone: this side is cancelled alone');
	like($result->{stderr}, qr/WARNING:.*on this side only.*HINT:.*DROP SCHEMA rehome_source CASCADE/s, 'a source that is gone: with a warning of what it may have');
	is($pair->sql_target($state), 'cancelled cancelled', 'a source that is gone: the state');
	is(schema_dump($target, 'postgres', '-n', 'up'), $before, 'a source that is gone: the targets are as they were');
	is((sqlstate_of($target, q{INSERT INTO up.parent VALUES (1, 'x')}))[0], '00000', 'a source that is gone: they can be written');
	$source->start;
	ok($pair->sql_source(q{SELECT count(*) > 0 FROM pg_trigger WHERE tgname LIKE 'rehome%' AND tgrelid IN ('up.parent'::regclass, 'up.child'::regclass)}), 'a source that was not gone after all: it still has triggers');
	call(q{CALL rehome.cancel('up')});
	is($pair->sql_source(q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%' AND tgrelid IN ('up.parent'::regclass, 'up.child'::regclass)}), 0, 'a source that was not gone after all: once more, and it is clean');
	$pair->sql_target(q{SELECT rehome.drop_migration('up')});
}

# A table that is replaced at the source after its triggers were made, and before
# anything was read: there is nothing that could have been missed.
{
	my $schema = q{CREATE SCHEMA hurt; CREATE TABLE hurt.item (id int PRIMARY KEY, v text)};
	$pair->sql_source("$schema; INSERT INTO hurt.item VALUES (1, 'one')");
	$pair->sql_target($schema);
	$pair->import_foreign_schema('hurt', 'hurt_far');
	$pair->sql_target(q{SELECT rehome.create_migration('hurt', 'src', 'x'); SELECT rehome.add_table('hurt', 'hurt_far.item', 'hurt.item')});
	is(finish_psql(start_psql($target, q{CALL rehome.copy('hurt')}, debug_point => 'capture-installed:error'))->{sqlstate}, 'XX000', 'the copy breaks off before it reads anything');
	$pair->sql_source(q{DROP TABLE hurt.item; CREATE TABLE hurt.item (id int PRIMARY KEY, v text); INSERT INTO hurt.item VALUES (2, 'two')});
	call(q{CALL rehome.copy('hurt')});
	$pair->sql_source(q{INSERT INTO hurt.item VALUES (3, 'three'); UPDATE hurt.item SET v = 'zwei' WHERE id = 2});
	call(q{CALL rehome.sync('hurt')});
	is($pair->sql_target(q{SELECT string_agg(id || v, ' ' ORDER BY id) FROM hurt.item}), '2zwei 3three', 'a table that was replaced before: its changes are captured');
	call(q{CALL rehome.cancel('hurt')});
	$pair->sql_target(q{SELECT rehome.drop_migration('hurt')});
}

# A source that is gone after the cutover: there is nothing to bring anything back to.
{
	my $schema = q{CREATE SCHEMA gone; CREATE TABLE gone.item (id int PRIMARY KEY, v text)};
	$pair->sql_source("$schema; INSERT INTO gone.item VALUES (1, 'one')");
	$pair->sql_target($schema);
	$pair->import_foreign_schema('gone', 'gone_far');
	$pair->sql_target(q{SELECT rehome.create_migration('gone', 'src', 'x'); SELECT rehome.add_table('gone', 'gone_far.item', 'gone.item')});
	call($_) for q{CALL rehome.copy('gone')}, q{CALL rehome.cutover('gone')};
	$pair->sql_target(q{INSERT INTO gone.item VALUES (2, 'two')});
	my ($map, $token) = split /\|/, $pair->sql_target(q{SELECT t.id, m.token FROM rehome.table_map t, rehome.migration m WHERE t.target = 'gone.item'::regclass AND m.name = 'gone'});
	isnt($pair->sql_target("SELECT to_regclass('rehome_change.change_$map')"), '', 'gone after the cutover: changes are captured here');
	isnt($pair->sql_source("SELECT to_regclass('rehome_source.change_${token}_$map')"), '', 'gone after the cutover: and the source has its change table');
	$source->stop;
	my $state = q{SELECT state || ' ' || authority FROM rehome.status WHERE migration = 'gone'};
	my $triggers = q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'rehome%' AND tgrelid = 'gone.item'::regclass};
	is((sqlstate_of($target, q{CALL rehome.complete('gone')}))[0], '08001', 'gone after the cutover: it cannot be brought the last changes');
	is($pair->sql_target($state), 'cut_over target', 'gone after the cutover: nothing has changed');
	cmp_ok($pair->sql_target($triggers), '>', 0, 'gone after the cutover: changes are still captured');
	my $result = finish_psql(start_psql($target, q{CALL rehome.complete('gone', local_only => true)}));
	is($result->{sqlstate}, '00000', 'gone after the cutover: this side is completed alone');
	like($result->{stderr}, qr/WARNING:.*completed on this side only.*has not been brought.*HINT:.*rehome\.complete\('gone', 'main'\).*DROP SCHEMA rehome_source CASCADE/s,
		'gone after the cutover: with a warning of what the source lacks');
	is($pair->sql_target($state), 'completed target', 'gone after the cutover: the state');
	is($pair->sql_target($triggers), 0, 'gone after the cutover: nothing is captured any more');
	is($pair->sql_target("SELECT to_regclass('rehome_change.change_$map')"), '', 'gone after the cutover: there is no change table any more');
	is((sqlstate_of($target, q{UPDATE gone.item SET v = 'three' WHERE id = 2}))[0], '00000', 'gone after the cutover: the table can be written');

	$source->start;
	is((sqlstate_of($source, q{INSERT INTO gone.item VALUES (3, 'three')}))[0], '25006', 'not gone after all: its fence is closed');
	is($pair->sql_source(q{SELECT count(*) FROM gone.item WHERE v = 'three'}), 0, 'not gone after all: it lacks what was written since');
	$result = finish_psql(start_psql($target, q{CALL rehome.complete('gone')}));
	is($result->{sqlstate}, '00000', 'not gone after all: once more');
	is($pair->sql_source("SELECT to_regclass('rehome_source.change_${token}_$map')"), '', 'not gone after all: its change table is removed');
	is((sqlstate_of($source, q{INSERT INTO gone.item VALUES (3, 'three')}))[0], '25006', 'not gone after all: and its fence stays closed');
	$pair->sql_target(q{SELECT rehome.drop_migration('gone')});
}

done_testing();
