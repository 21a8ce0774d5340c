# One source, two targets: both may follow it, only one can take authority.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $pair = new_pair(dbname => 'one');
my ($source, $target) = ($pair->source, $pair->target);
my $tables = q{CREATE TABLE item (id int PRIMARY KEY, v text); CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part DEFAULT};
$pair->sql_source("$tables; INSERT INTO item VALUES (1, 'a'); INSERT INTO part VALUES (1, 'a')");
$target->safe_psql('one', 'CREATE DATABASE two');
$target->safe_psql('two', sprintf q{CREATE EXTENSION pg_rehome CASCADE; CREATE SERVER src FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'one'); CREATE USER MAPPING FOR CURRENT_USER SERVER src},
	$source->host, $source->port);
for my $db (qw(one two))
{
	$target->safe_psql($db, "$tables; CREATE SCHEMA far; IMPORT FOREIGN SCHEMA public LIMIT TO (item, part) FROM SERVER src INTO far;
		SELECT rehome.create_migration('m', 'src', 'to $db', home => 'number $db');
		SELECT rehome.add_table('m', 'far.item', 'item'); SELECT rehome.add_table('m', 'far.part', 'part'); CALL rehome.copy('m')");
}
$pair->sql_source(q{UPDATE item SET v = 'b'; UPDATE part SET v = 'b'});

# cuts_over DATABASE: what became of it.
sub cuts_over
{
	my ($db) = @_;
	return join ' ', grep { $_ ne '' } (sqlstate_of($target, q{CALL rehome.cutover('m')}, $db))[0, 1, 2];
}
sub v { my ($db) = @_; return $target->safe_psql($db, q{SELECT string_agg(v, ' ') FROM (TABLE item UNION ALL TABLE part) AS x}) }

is(cuts_over('one'), '00000', 'one of them is cut over');
is(cuts_over('two'), qq{RH003 slice "main" of migration "m" cannot be cut over public.item: has moved to number one: another migration has authority over it\npublic.part: has moved to number one: another migration has authority over it},
	'the other one cannot be');
is($target->safe_psql('two', q{SELECT object || ' ' || detail FROM rehome.preflight('m') WHERE severity = 'error' ORDER BY 1 LIMIT 1}), 'public.item has moved to number one: another migration has authority over it', 'preflight says so');
is($target->safe_psql('one', q{SELECT count(*) FROM rehome.preflight('m') WHERE severity = 'error'}), '0', 'not to the one that has it');
is($target->safe_psql('two', q{SELECT state || ' ' || authority FROM rehome.status}), 'syncing source', 'it goes on following the source');
$target->safe_psql('one', q{UPDATE item SET v = 'c'; UPDATE part SET v = 'c'; CALL rehome.sync('m')});
$target->safe_psql('two', q{CALL rehome.sync('m')});
is(v('two'), 'c c', 'and with it what the first one brings back');
$target->safe_psql('one', q{CALL rehome.rollback('m'); CALL rehome.sync('m')});
is(cuts_over('two'), '00000', 'once the first one has rolled back it can');
like(cuts_over('one'), qr/^RH003 .* has moved to number two/, 'and the first one cannot');
$target->safe_psql('two', q{UPDATE item SET v = 'd'; CALL rehome.complete('m')});
like(cuts_over('one'), qr/^RH003 .* has moved to number two/, 'nor when the other is complete');
$target->safe_psql('one', q{CALL rehome.sync('m')});
is(v('one'), 'd c', 'what it brought back last is here, too');

done_testing();
