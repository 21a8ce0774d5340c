# Sources that are copied once: files through file_fdw, and another schema of the
# same database. They are copied and verified; start, sync and cutover, for which
# the source has to be a live PostgreSQL, are refused and say so.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(server => undef);
my $target = $pair->target;

sub call { my ($sql) = @_; return $pair->sql_target($sql, timeout => $PostgreSQL::Test::Utils::timeout_default) }

# One test each: what needs a live source is refused, and changes nothing.
sub refused_live
{
	my ($migration, @calls) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = catalog_state($target);
	for my $call (@calls)
	{
		my ($sqlstate, $message, $detail, $hint) = sqlstate_of($target, "CALL rehome.$call('$migration')");
		is($sqlstate, '0A000', "$migration: $call is refused");
		like("$message\n$detail", qr/can only be copied from/, "$migration: $call says why");
		like($hint, qr/CALL rehome\.\w+\('$migration'/, "$migration: $call says what can be done instead");
	}
	is(catalog_state($target), $before, "$migration: nothing has changed by that");
	return;
}

# Verifies, and names every difference: "missing|extra|differing" in total and by key.
sub differences
{
	my ($migration, $mode) = @_;
	my $sums = $pair->sql_target(qq{SELECT concat_ws('|', sum(missing), sum(extra), sum(differing), bool_and(ok)) FROM rehome.verify('$migration', mode => '$mode')});
	my $keys = $pair->sql_target(qq{SELECT string_agg(kind || ' ' || key, ', ' ORDER BY kind, key::text) FROM rehome.discrepancy WHERE migration = '$migration' AND resolved_at IS NULL});
	return "$sums: $keys";
}

# ---------------------------------------------------------------------------
# A file.

my $csv = $target->basedir . '/people.csv';
sub write_csv
{
	my (@lines) = @_;
	open my $fh, '>:encoding(UTF-8)', $csv or die "cannot write $csv: $!";
	print $fh "$_\n" for 'id,name,born,amount,note', @lines;
	close $fh or die "cannot write $csv: $!";
	return;
}
my @lines = map { sprintf '%d,"Name %d, ""quoted""",2024-%02d-%02d,%d.50,%s', $_, $_, 1 + $_ % 12, 1 + $_ % 28, $_, $_ % 3 ? "\"line\nfeed $_\"" : '' } 1 .. 500;
write_csv(@lines);

$pair->sql_target(qq{
	CREATE EXTENSION file_fdw;
	CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
	CREATE SCHEMA files;
	CREATE FOREIGN TABLE files.people (id integer, name text, born date, amount numeric, note text)
		SERVER files OPTIONS (filename '$csv', format 'csv', header 'true');
	CREATE TABLE public.people (
		number bigint PRIMARY KEY, name text NOT NULL, born timestamptz, cents bigint CHECK (cents < 1000000), note text,
		at timestamptz DEFAULT '2020-01-01 00:00:00+00', initial text GENERATED ALWAYS AS (left(name, 1)) STORED);
	CREATE INDEX people_name ON public.people (name);});
my $schema = schema_dump($target);
sub define_file
{
	$pair->sql_target(q{
		SELECT rehome.create_migration('file', 'files', 'the spreadsheet has grown up');
		SELECT rehome.add_table('file', 'files.people', 'public.people', filter => 'id <> 13');
		SELECT rehome.map_column('file', 'public.people', 'number', 'id');
		SELECT rehome.map_column('file', 'public.people', 'born', $$born::timestamp AT TIME ZONE 'UTC'$$);
		SELECT rehome.map_column('file', 'public.people', 'cents', '(amount * 100)::bigint');});
	return;
}
define_file();
is($pair->sql_target(q{SELECT count(*) FROM rehome.preflight('file') WHERE severity = 'error'}), '0', 'a file: preflight has no objection');
cmp_ok($pair->sql_target(q{SELECT count(*) FROM rehome.plan('file')}), '>', 0, 'a file: there is a plan');
refused_live('file', qw(start));

call(q{SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo'; CALL rehome.copy('file')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'syncing|source', 'a file: copied');
my $should = q{SELECT id, name, born::timestamp AT TIME ZONE 'UTC', (amount * 100)::bigint, note, timestamptz '2020-01-01 00:00:00+00', 'N' FROM files.people WHERE id <> 13};
is($pair->sql_target("SELECT count(*), (SELECT count(*) FROM ($should) AS s) FROM (SELECT * FROM public.people INTERSECT $should) AS p"),
	'499|499', 'a file: every row is as mapped');
is($pair->sql_target(q{SELECT count(*) FROM public.people}), '499', 'a file: and there is no other');
refused_live('file', qw(start sync cutover));
is((sqlstate_of($target, q{CALL rehome.rollback('file')}))[0], 'RH001', 'a file: nor is there anything to roll back');

for my $mode (qw(count hash rows))
{
	is($pair->sql_target(qq{SELECT target, source_rows, target_rows, ok FROM rehome.verify('file', mode => '$mode')}),
		'people|499|499|t', "a file: verify, mode $mode, sees all rows and no difference");
}
$pair->sql_target(q{UPDATE public.people SET cents = cents + 1 WHERE number = 100; DELETE FROM public.people WHERE number IN (200, 201);
	INSERT INTO public.people VALUES (1000, 'extra'); UPDATE public.people SET at = now() WHERE number = 5});
for my $mode (qw(hash rows))
{
	is(differences('file', $mode), '2|1|1|f: differing {"number": 100}, extra {"number": 1000}, missing {"number": 200}, missing {"number": 201}',
		"a file: verify, mode $mode, names by key what was tampered with, and not the column that is not mapped");
}
is($pair->sql_target(q{SELECT columns, source_row->>'cents', target_row->>'cents' FROM rehome.discrepancy WHERE kind = 'differing' AND resolved_at IS NULL}),
	'{cents}|10050|10051', 'a file: with the column and both values');
is($pair->sql_target(q{SELECT source_rows, target_rows, ok FROM rehome.verify('file', mode => 'count')}), '499|498|f', 'a file: verify, mode count, sees that a row is missing');
is($pair->sql_target(q{SELECT discrepancies FROM rehome.status}), '4', 'a file: the status counts them');
$pair->sql_target(q{UPDATE public.people SET cents = cents - 1 WHERE number = 100; DELETE FROM public.people WHERE number = 1000;
	INSERT INTO public.people (number, name, born, cents, note)
	SELECT id, name, born::timestamp AT TIME ZONE 'UTC', (amount * 100)::bigint, note FROM files.people WHERE id IN (200, 201)});
is(differences('file', 'rows'), '0|0|0|t: ', 'a file: put right, there is no difference');
write_csv(@lines[ 0 .. 400 ], '402,changed,,1.00,');
is($pair->sql_target(q{SELECT missing, extra, differing, ok FROM rehome.verify('file')}), '0|98|1|f', 'a file: and it is the file as it is now that is compared');

write_csv(@lines);
$pair->sql_target(q{SELECT rehome.verify('file')});
call(q{CALL rehome.complete('file')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'completed|target', 'a file: completed');
$pair->sql_target(q{SELECT rehome.drop_migration('file'); INSERT INTO public.people VALUES (2000, 'free')});
is(schema_dump($target), $schema, 'a file: dropped, and the schema is as it was');

# A file with a row that cannot be read, or that a constraint refuses: all or nothing.
for my $wrong ([ 'a row that cannot be read', '600,x,2024-13-45,1,', '22008' ], [ 'a row of too few columns', '600,x', '22P04' ],
	[ 'a row that violates a constraint', '600,x,,99999999,', '23514' ], [ 'a key that is there twice', '500,x,,1,', '23505' ])
{
	my ($what, $line, $code) = @$wrong;
	write_csv(@lines, $line);
	$pair->sql_target('TRUNCATE public.people');
	define_file();
	is((sqlstate_of($target, q{CALL rehome.copy('file')}))[0], $code, "a file with $what: the copy fails");
	is($pair->sql_target('SELECT count(*) FROM public.people'), '0', "a file with $what: no row was copied");
	write_csv(@lines);
	call(q{CALL rehome.copy('file')});
	is(differences('file', 'rows'), '0|0|0|t: ', "a file with $what: put right, it is copied");
	call(q{CALL rehome.cancel('file')});
	$pair->sql_target(q{SELECT rehome.drop_migration('file')});
	is(schema_dump($target), $schema, "a file with $what: cancelled, and the schema is as it was");
}

# ---------------------------------------------------------------------------
# Another schema of the same database.

$pair->sql_target(q{
	CREATE SCHEMA legacy;
	CREATE SCHEMA app;
	CREATE TABLE legacy.item (id integer PRIMARY KEY, name text, price numeric, tags text[], at timestamp);
	INSERT INTO legacy.item SELECT i, 'item ' || i, i / 3.0, ARRAY['t' || i, NULL], timestamp '2024-03-10 02:30' + i * interval '1 hour' FROM generate_series(1, 1000) AS i;
	INSERT INTO legacy.item VALUES (1001, NULL, 'NaN', '{}', 'infinity');
	CREATE TABLE legacy.parted (id integer, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE legacy.parted_a PARTITION OF legacy.parted FOR VALUES IN ('a');
	CREATE TABLE legacy.parted_d PARTITION OF legacy.parted DEFAULT;
	INSERT INTO legacy.parted SELECT i, chr(97 + i % 3) FROM generate_series(1, 100) AS i;
	CREATE VIEW legacy.cheap AS SELECT id, upper(name) AS name FROM legacy.item WHERE price < 10;
	CREATE TABLE app.item (id integer PRIMARY KEY, name text, price numeric, tags text[], at timestamptz);
	CREATE TABLE app.parted (id integer, region text, PRIMARY KEY (id, region));
	CREATE TABLE app.cheap (id integer PRIMARY KEY, name text);});
$schema = schema_dump($target);
$pair->sql_target(q{
	SELECT rehome.create_migration('here', NULL, 'out of the old schema');
	SELECT rehome.add_table('here', 'legacy.item', 'app.item');
	SELECT rehome.add_table('here', 'legacy.parted', 'app.parted');
	SELECT rehome.add_table('here', 'legacy.cheap', 'app.cheap');
	SELECT rehome.map_column('here', 'app.item', 'at', $$at AT TIME ZONE 'Europe/Berlin'$$);});
is($pair->sql_target(q{SELECT count(*) FROM rehome.preflight('here') WHERE severity = 'error'}), '0', 'the same database: preflight has no objection');
refused_live('here', qw(start));
call(q{CALL rehome.copy('here')});
is($pair->sql_target(q{SELECT (SELECT count(*) FROM (SELECT id, name, price, tags, at AT TIME ZONE 'Europe/Berlin' FROM legacy.item EXCEPT TABLE app.item) AS d)
	+ (SELECT count(*) FROM (TABLE legacy.parted EXCEPT TABLE app.parted) AS d) + (SELECT count(*) FROM (TABLE legacy.cheap EXCEPT TABLE app.cheap) AS d)}),
	'0', 'the same database: every row is there, of a table, a partitioned table and a view');
is($pair->sql_target(q{SELECT count(*) > 0 FROM app.cheap}), 't', 'the same database: the view had rows');
refused_live('here', qw(start sync cutover));
for my $mode (qw(count hash rows))
{
	is($pair->sql_target(qq{SELECT string_agg(concat_ws(' ', target, source_rows, target_rows, ok), ', ' ORDER BY target::text) FROM rehome.verify('here', mode => '$mode')}),
		'app.cheap 29 29 t, app.item 1001 1001 t, app.parted 100 100 t', "the same database: verify, mode $mode, sees all rows and no difference");
}
$pair->sql_target(q{UPDATE app.item SET price = 'Infinity' WHERE id = 1001; UPDATE app.item SET name = '' WHERE id = 1; UPDATE app.item SET price = price * 1.0 WHERE id = 3;
	DELETE FROM app.parted WHERE id = 3; INSERT INTO legacy.parted VALUES (3, 'c'), (3, 'z')});
for my $mode (qw(hash rows))
{
	is(differences('here', $mode), '3|0|3|f: differing {"id": 1001}, differing {"id": 1}, differing {"id": 3}, missing {"id": 3, "region": "a"}, missing {"id": 3, "region": "c"}, missing {"id": 3, "region": "z"}',
		"the same database: verify, mode $mode, names by key what has changed, on either side");
}
call(q{CALL rehome.cancel('here')});
$pair->sql_target(q{SELECT rehome.drop_migration('here')});
is(schema_dump($target), $schema, 'the same database: cancelled, and the schema is as it was');

# add_schema maps namesakes.
$pair->sql_target(q{TRUNCATE app.item, app.parted, app.cheap; DROP TABLE app.cheap; DROP VIEW legacy.cheap;
	SELECT rehome.create_migration('here', NULL, 'out of the old schema')});
is($pair->sql_target(q{SELECT rehome.add_schema('here', 'legacy', 'app')}), '2', 'the same database: add_schema finds the tables');
call(q{CALL rehome.copy('here')});
is(differences('here', 'rows'), '0|0|0|t: ', 'the same database: copied, and there is no difference');
call(q{CALL rehome.complete('here')});
is($pair->sql_target('SELECT state, authority FROM rehome.status'), 'completed|target', 'the same database: completed');

done_testing();
