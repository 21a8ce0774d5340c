# A migration whose owner, or whose server, is gone: it is given to another role,
# or, without its source, ended.
use strict;
use warnings;

use RehomeTest;
use Test::More;

my $pair = new_pair(role => 1, tcp => 1);
my ($source, $target) = ($pair->source, $pair->target);

# Whoever owned a migration has left: it is given to who has the tables now.
$pair->sql_source(q{CREATE SCHEMA app; CREATE TABLE app.item (id int PRIMARY KEY, v text); INSERT INTO app.item VALUES (1, 'a'); ALTER ROLE rehome_src PASSWORD 'secret'});
$pair->grant_source('app');
$pair->sql_target(qq{
	CREATE ROLE leaver LOGIN IN ROLE rehome_admin; CREATE ROLE stayer LOGIN IN ROLE rehome_admin; CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO leaver, stayer;
	CREATE TABLE app.item (id int PRIMARY KEY, v text); ALTER TABLE app.item OWNER TO leaver;
	CREATE SERVER leaving FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '@{[$source->port]}', dbname 'postgres'); GRANT USAGE ON FOREIGN SERVER leaving TO leaver, stayer;
	CREATE USER MAPPING FOR leaver SERVER leaving OPTIONS (user 'rehome_src', password 'secret');
	CREATE USER MAPPING FOR stayer SERVER leaving OPTIONS (user 'rehome_src', password 'secret');
	CREATE SCHEMA far AUTHORIZATION leaver; SET ROLE leaver; IMPORT FOREIGN SCHEMA app LIMIT TO (item) FROM SERVER leaving INTO far;
	SELECT rehome.create_migration('leaving', 'leaving', 'somebody leaves'); SELECT rehome.add_table('leaving', 'far.item', 'app.item');
	CALL rehome.copy('leaving'); CALL rehome.sync('leaving')});
is((sqlstate_of($target, q{SET ROLE stayer; SELECT rehome.set_owner('leaving', 'stayer')}))[0], '42501', 'nobody takes a migration from its owner');
is((sqlstate_of($target, q{SET ROLE leaver; SELECT rehome.set_owner('leaving', 'stayer')}))[0], '42501', 'nor gives it to somebody whose rights he has not');
my ($sqlstate, undef, undef, $hint) = sqlstate_of($target, q{SELECT rehome.set_owner('leaving', 'stayer')});
is("$sqlstate $hint", '42501 ALTER TABLE app.item OWNER TO stayer;', 'who gets it must own the tables');
$pair->sql_target(q{REASSIGN OWNED BY leaver TO stayer; DROP OWNED BY leaver; DROP ROLE leaver});
$pair->sql_source(q{INSERT INTO app.item VALUES (2, 'b')});
($sqlstate, undef, undef, $hint) = sqlstate_of($target, q{CALL rehome.sync('leaving')});
is("$sqlstate $hint", "42704 SELECT rehome.set_owner('leaving', '<role>');", 'an owner who is gone: what to do is told');
$pair->sql_target(q{SELECT rehome.set_owner('leaving', 'stayer')});
is(finish_psql(start_psql($target, q{CALL rehome.sync('leaving')}, user => 'stayer'))->{sqlstate}, '00000', 'with another one it goes on');
is($pair->sql_target('SELECT count(*) FROM app.item'), '2', 'and nothing is lost');
is($pair->sql_target(q{SELECT message FROM rehome.event WHERE migration = 'leaving' AND kind = 'owner'}), 'owner is stayer', 'which is on record');

# A server that is gone is no obstacle to what does not need it.
$pair->sql_target('DROP SERVER leaving CASCADE');
like((sqlstate_of($target, q{CALL rehome.sync('leaving')}))[1], qr{do not exist any more}, 'a server that is gone: sync says so');
is((sqlstate_of($target, q{CALL rehome.cancel('leaving', local_only => true)}))[0], '00000', 'a server that is gone: given up on this side');
is((sqlstate_of($target, q{SELECT rehome.export_migration('leaving'); SELECT rehome.drop_migration('leaving')}))[0], '00000', 'and forgotten');

done_testing();
