# Keys of which one side takes several spellings for the same, and the other
# takes each for a key of its own: when nothing but the spelling changes, the
# row moves, and what it has at the source alone stays.
use strict;
use warnings;

use RehomeTest;
use Test::More;

for my $role (0, 1)
{
	my $who = $role ? 'a role whose writes fire triggers' : 'a superuser';
	my $pair = new_pair(role => $role, prefix => $role ? 'role_' : '');
	my ($source, $target) = ($pair->source, $pair->target);
	$pair->sql_source(q{
		CREATE EXTENSION citext;
		CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE SCHEMA app;
		CREATE TABLE app.ci (k citext PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.num (k numeric PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.float (k float8 PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.span (n int, k interval, v int, own text DEFAULT 'none', PRIMARY KEY (n, k));
		CREATE TABLE app.coll (k text COLLATE public.any_case PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.part (k text COLLATE public.any_case PRIMARY KEY, v int, own text DEFAULT 'none') PARTITION BY HASH (k);
		CREATE TABLE app.part_0 PARTITION OF app.part FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		CREATE TABLE app.strict (k text PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.loose (k text PRIMARY KEY, v int, own text DEFAULT 'none');
		CREATE TABLE app.mixed (n numeric, k text, v int, own text DEFAULT 'none', PRIMARY KEY (n, k));
	});
	$pair->sql_target(q{
		CREATE EXTENSION citext;
		CREATE COLLATION public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE SCHEMA app;
		CREATE TABLE app.ci (k text PRIMARY KEY, v int);
		CREATE TABLE app.num (k text PRIMARY KEY, v int);
		CREATE TABLE app.float (k text PRIMARY KEY, v int);
		CREATE TABLE app.span (n int, k text, v int, PRIMARY KEY (n, k));
		CREATE TABLE app.coll (k text PRIMARY KEY, v int);
		CREATE TABLE app.part (k varchar(100) PRIMARY KEY, v int);
		CREATE TABLE app.strict (k citext PRIMARY KEY, v int);
		CREATE TABLE app.loose (k text COLLATE public.any_case PRIMARY KEY, v int, head text GENERATED ALWAYS AS (left(k, 3)) STORED);
		CREATE TABLE app.mixed (n numeric, k text, v int, PRIMARY KEY (n, k));
	});
	my @tables = qw(ci num float span coll part strict loose mixed);
	$pair->sql_source(q{
		INSERT INTO app.ci SELECT 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.num SELECT (i || '.0')::numeric, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.float VALUES (1, 1, 'own 1'), (0, 2, 'own 2');
		INSERT INTO app.span SELECT i, make_interval(days => 1), i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.coll SELECT 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.part SELECT 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.strict SELECT 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.loose SELECT 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
		INSERT INTO app.mixed SELECT (i || '.0')::numeric, 'Key ' || i, i, 'own ' || i FROM generate_series(1, 20) i;
	});
	$pair->grant_source('app') if $role;
	$pair->import_foreign_schema('app', 'far');
	$pair->sql_target(join ';', q{SELECT rehome.create_migration('m', 'src', 'a test of spelled keys')},
		map { "SELECT rehome.add_table('m', 'far.$_', 'app.$_')" } @tables);
	my @content = map { my $n = /span|mixed/ ? 'n, ' : ''; { source => "(SELECT ${n}k::text AS k, v FROM app.$_)", target => "(SELECT ${n}k::text AS k, v FROM app.$_)" } } @tables;

	# Nothing but the spelling, once and twice; that of a row that goes; one that goes and comes back.
	my %forward = (
		ci     => q{UPDATE app.ci SET k = 'KEY 1' WHERE v = 1; UPDATE app.ci SET k = 'kEY 2' WHERE v = 2; UPDATE app.ci SET k = 'keY 2' WHERE v = 2;
		            UPDATE app.ci SET k = 'KEY 3' WHERE v = 3; DELETE FROM app.ci WHERE v = 3; DELETE FROM app.ci WHERE v = 4; INSERT INTO app.ci VALUES ('KEY 4', 4, 'own 4')},
		num    => q{UPDATE app.num SET k = 1.00 WHERE v = 1; UPDATE app.num SET k = 2.000 WHERE v = 2; UPDATE app.num SET k = 2.00 WHERE v = 2; DELETE FROM app.num WHERE v = 3},
		float  => q{UPDATE app.float SET k = '-0' WHERE v = 2},
		span   => q{UPDATE app.span SET k = '24:00' WHERE v IN (1, 2); UPDATE app.span SET k = '12:00' WHERE v = 3; UPDATE app.span SET n = 30, k = '24:00' WHERE v = 4},
		coll   => q{UPDATE app.coll SET k = 'KEY 1' WHERE v = 1; UPDATE app.coll SET k = 'kEY 2' WHERE v = 2; UPDATE app.coll SET k = 'keY 2' WHERE v = 2},
		part   => q{UPDATE app.part SET k = 'KEY 1' WHERE v = 1; UPDATE app.part_0 SET k = 'kEY 2' WHERE v = 2; UPDATE app.part SET k = 'keY 2' WHERE v = 2},
		strict => q{UPDATE app.strict SET k = 'KEY 1' WHERE v = 1; UPDATE app.strict SET k = 'kEY 2' WHERE v = 2; UPDATE app.strict SET k = 'keY 2' WHERE v = 2},
		loose  => q{UPDATE app.loose SET k = 'KEY 1' WHERE v = 1; UPDATE app.loose SET k = 'kEY 2' WHERE v = 2; UPDATE app.loose SET k = 'keY 2' WHERE v = 2},
		mixed  => q{UPDATE app.mixed SET n = 1.00 WHERE v = 1; UPDATE app.mixed SET n = 2.00, k = 'KEY 2' WHERE v = 2; DELETE FROM app.mixed WHERE v = 3});
	my $change = sub
	{
		my ($node, $sql, $name) = @_;
		my ($sqlstate, $message) = sqlstate_of($node, join(';', @$sql{@tables}));
		return is($sqlstate, '00000', "$who: $name") || diag($message);
	};
	my $sync = sub
	{
		my ($name) = @_;
		my ($sqlstate, $message) = sqlstate_of($target, q{CALL rehome.sync('m')});
		is($sqlstate, '00000', "$who: $name: in sync") || diag($message);
		same_content($pair, \@content, "$who: $name: the same keys, spelled the same");
		my $found = $pair->sql_target(q{SELECT count(*) FROM rehome.verify('m', incremental => true) WHERE NOT ok});
		is($found, 0, "$who: $name: a verification of what was touched finds nothing");
		is($pair->sql_target(q{SELECT count(*) FROM app.loose WHERE head COLLATE "C" <> left(k, 3) COLLATE "C"}), 0, "$who: $name: what is generated of the key follows it");
	};

	$pair->sql_target(q{CALL rehome.copy('m')});
	same_content($pair, \@content, "$who: copied");
	is($pair->sql_target(q{SELECT count(*) FROM rehome.verify('m') WHERE NOT ok}), 0, "$who: and verified");
	$change->($source, \%forward, 'the source spells keys anew');
	$sync->('forward');

	$pair->sql_target(q{CALL rehome.cutover('m')});
	my %back = (
		(map { $_ => "UPDATE app.$_ SET k = 'Back ' || v WHERE v = 5; UPDATE app.$_ SET k = upper(k) WHERE v = 6; UPDATE app.$_ SET k = lower(k) WHERE v = 7; UPDATE app.$_ SET k = upper(k) WHERE v = 7; DELETE FROM app.$_ WHERE v = 8" } qw(ci coll part strict loose)),
		num   => q{UPDATE app.num SET k = k || '0' WHERE v = 5; UPDATE app.num SET k = k || '0' WHERE v = 6; UPDATE app.num SET k = k || '0' WHERE v = 6; DELETE FROM app.num WHERE v = 7},
		mixed => q{UPDATE app.mixed SET n = 5.00 WHERE v = 5; UPDATE app.mixed SET n = 6.00, k = 'KEY 6' WHERE v = 6; DELETE FROM app.mixed WHERE v = 7},
		float => q{UPDATE app.float SET k = '0' WHERE v = 2},
		span  => q{UPDATE app.span SET k = '24:00:00' WHERE v = 5; UPDATE app.span SET k = '1 day' WHERE v IN (1, 5)});
	$change->($target, \%back, 'the target spells keys anew');
	$sync->('back');
	my $own = join ' UNION ALL ', map { "SELECT '$_' AS t, v, own FROM app.$_" } grep { $_ ne 'strict' && $_ ne 'loose' } @tables;
	is($pair->sql_source("SELECT string_agg(t || ' ' || v, ', ' ORDER BY t, v) FROM ($own) AS o WHERE own = 'none'"), 'ci 5, coll 5, mixed 6, part 5',
		"$who: what a row has at the source alone stays, unless it has another key there");
	$pair->sql_target(q{CALL rehome.rollback('m')});
	same_content($pair, \@content, "$who: rolled back");
}

done_testing();
