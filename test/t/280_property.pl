# Random rules over random rows, hostile ones among them: of any kind, in steps,
# with any error policy. Whatever they are, a copy, sync after changes, and a
# second copy give the same target; and after a cutover, writes and a rollback
# the source has its own rows again, but for what was written, and for columns
# that preflight has named.
#
# PROPERTY_SEED repeats a run, PROPERTY_ROUNDS makes it longer.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use RehomeTest;

my $seed   = $ENV{PROPERTY_SEED} // time;
my $rounds = $ENV{PROPERTY_ROUNDS} // 2;
note("PROPERTY_SEED=$seed PROPERTY_ROUNDS=$rounds");
srand $seed;

sub one_of { return $_[ rand @_ ] }
sub chance { my ($of) = @_; return rand() < $of }

# SQL for a text, or NULL.
sub quoted { my ($text) = @_; return defined $text ? "'" . $text =~ s/'/''/gr . "'" : 'NULL' }

# ---------------------------------------------------------------------------
# Values.

my %values = (
	text => [
		undef, undef, '', ' ', "\t\n", 'a', 'b', 'c', 'A', ' padded ', "it's", 'back\\slash', "two\nlines", "bell\x07", 'Ä ö ß', "e\xCC\x81", '漢字',
		'<b>bold</b> &amp; &#233;', '{"n": 1}', '{"n": 1,,}', '{"n": "\u0000"}', 'null', 'NaN', '-Infinity', '0', '-1', '7', '007', '1.50', '1,234.50',
		'(12)', '$9', '1e400', '99999999999999999999', 'yes', 'no', 'true', '?', '0000-00-00', '2020-02-30', '2024-02-29', '2024-02-29 10:20:30.123456',
		'0044-03-15 BC', '294276-12-31', '10000-01-01', 'infinity', 'x' x 30, 'y' x 3000
	],
	bigint => [ undef, 0, 1, -1, 7, 32767, 32768, 2147483648, 1700000000, 1700000000123, '9223372036854775807', '-9223372036854775808' ],
	numeric => [ undef, 0, '0.005', '12.50', '-12.5', '99999.995', '1e20', '1e-20', 'NaN', 'Infinity', '4294967295', '18446744073709551616' ],
	float8 => [ undef, 0, '0.1', '-0', '1e300', '12.5', 'NaN', 'Infinity', '-Infinity', '3' ],
	timestamp => [
		undef, '2024-02-29 10:20:30.123456', '2024-03-31 02:30:00', '1970-01-01', '1900-01-01', '9999-12-31', '0044-03-15 BC', '294276-12-31 23:59:59',
		'infinity', '-infinity'
	],
	boolean => [ undef, 'true', 'false' ]);

# Values that most rules to a type take.
my %tame = (
	text      => [ 'a', 'b', 'Some text', ' padded ', 'yes' ],
	varchar   => [ 'a', 'b', 'short' ],
	integer   => [ 1, 7, -12, 30000 ],
	smallint  => [ 1, 7, -12 ],
	bigint    => [ 1, 7, 1700000000 ],
	numeric   => [ 1, 7, '12.5' ],
	float8    => [ 1, '0.25' ],
	date      => [ '2024-02-29', '1999-12-31' ],
	timestamp => [ '2024-02-29 10:20:30.5', '1999-12-31' ],
	boolean   => [ 'true', 'false' ],
	jsonb     => [ '{"n": 1}', '[]' ]);
$tame{timestamptz} = $tame{timestamp};

sub base_of { my ($type) = @_; return $type =~ s/\(.*//r }

# A value of a column, given its type and its rule: two out of three times a tame one.
sub value
{
	my ($type, $rule) = @_;
	my ($kind, undef, $to) = @$rule;
	return one_of(@{ $values{$type} }) if chance(1 / 3);
	return one_of(qw(a b))             if $type eq 'text' && $kind =~ /^(?:value_map|lookup)$/;
	return one_of(@{ $tame{ $type eq 'text' ? base_of($to) : $type } });
}

# ---------------------------------------------------------------------------
# Rules: [kind, parameters, type of the target, further arguments of add_rule].

# A step from text to text.
sub text_step
{
	return one_of(
		sub { ('text', '"trim": "' . one_of(qw(both left right)) . '"') },
		sub { ('text', '"case": "' . one_of(qw(lower upper)) . '"') },
		sub { ('text', '"control": "' . one_of(qw(strip space refuse)) . '", "collapse": true') },
		sub { ('text', '"normalize": "' . one_of(qw(nfc nfd nfkc nfkd)) . '"') },
		sub { ('text', '"' . one_of(qw(html entities)) . '": true') },
		sub { ('text', '"json": "' . one_of(qw(repair refuse)) . '"') },
		sub { ('null', '"blank_to_null": true') },
		sub { ('null', '"to_null": ["?", "a"]') },
		sub { ('null', '"null_to": "?"') },
		sub { ('value_map', '"map": {"a": "b", "b": "a", "yes": "no"}, "unlisted": ' . one_of('"keep"', '"null"', '"quarantine"', '"fail"', '{"value": "other"}')) },
		sub { ('expression', '"expression": "' . one_of('upper(value)', 'reverse(value)', 'coalesce(value, $$none$$)', 'substr(value, 2)') . '"') })->();
}

sub rule
{
	my ($type) = @_;
	my $out_of_range = one_of(qw(refuse null clamp));
	my @common = ([ 'copy', '', $type ], [ 'cast', '', 'text' ], [ 'constant', '"value": "1"', 'text' ], [ 'copy', '', $type ]);
	my %own = (
		text => sub {
			my ($kind, $params) = text_step();
			my @steps = map { sprintf '{"kind": "%s", %s}', text_step() } 1 .. 1 + rand 3;
			return ([ 'copy', '', 'varchar(20)' ], (map { [ 'cast', '', $_ ] } 'integer', 'numeric(8, 2)', 'date', 'jsonb', 'boolean', 'timestamptz', 'varchar(20)'),
				[ $kind, $params, 'text' ], [ $kind, $params, 'text' ], [ 'steps', \@steps, 'text' ], [ 'steps', \@steps, 'varchar(20)' ],
				[ 'steps', [ @steps, '{"kind": "number", "money": true}' ], 'numeric(12, 3)' ],
				[ 'number', '"boolean": true', 'boolean' ], [ 'number', '"money": true', one_of('integer', 'numeric') ],
				[ 'number', '"nan": "' . one_of(qw(null refuse keep)) . '"', 'float8' ],
				[ 'timestamp', '"zone": "Europe/Berlin", "zero": "null"', 'timestamptz' ],
				[ 'timestamp', '"zero": "1970-01-01", "sentinels": {"10000-01-01": null}', 'timestamp' ],
				[ 'value_map', '"map": {"a": "1", "b": "2", "yes": "3", "A": "4"}, "unlisted": "' . one_of(qw(fail quarantine)) . '"', 'integer' ],
				[ 'lookup', '"table": "new.crosswalk", "from": "old", "to": "new", "unlisted": "' . one_of(qw(fail quarantine keep null)) . '"', 'text' ],
				[ 'expression', '"expression": "coalesce(value, $$?$$)"', 'text', q{inverse => 'nullif(%s, $$?$$)'} ],
				[ 'expression', '"expression": "value || $$!$$"', 'text', q{inverse => 'left(%s, -1)'} ]);
		},
		bigint => sub {
			return ((map { [ 'timestamp', qq("unit": "$_"), 'timestamptz' ] } qw(seconds millis micros)), (map { [ 'cast', '', $_ ] } qw(integer numeric smallint)),
				[ 'number', '"unsigned": "32"', 'bigint' ], [ 'number', qq("min": 0, "max": 40000, "out_of_range": "$out_of_range"), 'integer' ]);
		},
		numeric => sub {
			return ((map { [ 'cast', '', $_ ] } 'integer', 'numeric(6, 2)', 'float8'), [ 'copy', '', 'numeric(7, 2)' ],
				[ 'number', '"nan": "' . one_of(qw(null refuse)) . '"', one_of('numeric', 'bigint') ],
				[ 'number', '"unsigned": "64"', 'numeric' ]);
		},
		float8 => sub { return ([ 'cast', '', 'numeric' ], [ 'cast', '', 'integer' ], [ 'number', '"nan": "null"', 'numeric(9, 3)' ]) },
		timestamp => sub {
			return ([ 'copy', '', 'timestamptz' ], [ 'cast', '', 'date' ],
				[ 'timestamp', '"zone": "Europe/Berlin"', 'timestamptz' ],
				[ 'timestamp', qq("min": "1900-01-01", "max": "2100-01-01", "out_of_range": "$out_of_range"), 'timestamp' ]);
		},
		boolean => sub { return ([ 'cast', '', 'integer' ], [ 'value_map', '"map": {"true": "t", "false": "f"}', 'text' ]) });
	return one_of(@common, $own{$type}->());
}

# The call that states the rule of target column t<n>, from source column c<n>.
sub add_rule
{
	my ($migration, $target, $n, $rule, $policy) = @_;
	my ($kind, $params, undef, $inverse) = @$rule;
	$params = $kind eq 'steps' ? '[' . join(', ', @$params) . ']' : "{$params}";
	my @more = (
		$kind eq 'constant' ? () : "source_column => 'c$n'",
		$policy ? "on_error => '$policy'" : (),
		$inverse ? sprintf($inverse, "t$n") . ", inverse_column => 'c$n'" : (),
		$kind ne 'constant' && $rule->[4] ? 'validation => ' . quoted($rule->[4]) : ());
	return sprintf 'SELECT rehome.add_rule(%s)', join ', ', "'$migration'", "'$target'", "'t$n'", "'$kind'", quoted($params), @more;
}

# ---------------------------------------------------------------------------

my $pair = new_pair(target_conf => 'rehome.copy_workers = 0');
my ($source, $target) = ($pair->source, $pair->target);
$values{numeric} = [ grep { ($_ // '') ne 'Infinity' } @{ $values{numeric} } ] if $pair->source_version < 140000;

sub call { my ($procedure, $migration) = @_; return $pair->sql_target("CALL rehome.$procedure('$migration')", timeout => $PostgreSQL::Test::Utils::timeout_default) }

# What a target holds, and what is in its quarantine.
sub state
{
	my ($migration, $name) = @_;
	return join "\n", $pair->sql_target("SELECT t::text FROM $name AS t ORDER BY id"), 'in quarantine',
	  $pair->sql_target("SELECT source_key->>'id', rule, sqlstate, message FROM rehome.quarantine WHERE migration = '$migration' ORDER BY (source_key->>'id')::int");
}

# A source's rows: {id => {column => value}}. Of numbers that are equal, 1 and 1.00, any will do.
sub rows_of
{
	my ($name) = @_;
	my %rows;
	for my $line (split /\n/, $pair->sql_source("SELECT t.id || ' ' || k || ' ' || CASE jsonb_typeof(v) WHEN 'number' THEN trim_scale(v::numeric)::text ELSE v::text END FROM $name AS t, jsonb_each(to_jsonb(t)) AS e(k, v) ORDER BY 1"))
	{
		my ($id, $column, $value) = split / /, $line, 3;
		$rows{$id}{$column} = $value;
	}
	return \%rows;
}

sub play
{
	my ($round) = @_;
	my ($from, $twin, $to, $again) = ("old.r$round", "twin.r$round", "new.r$round", "again.r$round");
	my @types    = map { one_of(qw(text text text bigint numeric float8 timestamp boolean)) } 1 .. 5;
	my @rules    = map { rule($_) } @types;
	# values that are to go to quarantine admit of no other policy
	my @policies = map { my $rule = $_; grep({ /"quarantine"/ } $rule->[1], ref $rule->[1] ? @{ $rule->[1] } : ()) ? undef : one_of(undef, qw(null default quarantine)) } @rules;
	my $columns  = join ', ', map { "c$_ $types[$_ - 1]" } 1 .. @types;
	my $targets  = join ', ', map { "t$_ $rules[$_ - 1][2] DEFAULT " . quoted($tame{ base_of($rules[ $_ - 1 ][2]) }[0]) } 1 .. @types;
	my $row      = sub { my ($id) = @_; return '(' . join(', ', $id, map { quoted(value($types[$_], $rules[$_])) } 0 .. $#types) . ')' };

	for my $n (0 .. $#types)
	{
		$rules[$n] = [ @{ $rules[$n] }[ 0 .. 3 ], 'value IS NULL OR length(value::text) <> 3' ] if chance(0.2);
	}
	my $stated = join ";\n", map { add_rule('M', 'T', $_, $rules[ $_ - 1 ], $policies[ $_ - 1 ]) } 1 .. @types;
	note("round $round: ($columns) to ($targets)\n$stated");

	$pair->sql_source("CREATE TABLE $from (id integer PRIMARY KEY, $columns); INSERT INTO $from VALUES " . join ', ', map { $row->($_) } 1 .. 60);
	$pair->sql_target("CREATE TABLE $_ (id integer PRIMARY KEY, $targets, touched integer)") for $to, $again;
	my $define = sub {
		my ($migration, $schema, $name) = @_;
		$pair->import_foreign_schema($schema, $migration, "r$round");
		$pair->sql_target(join ";\n", "SELECT rehome.create_migration('$migration', 'src', 'a property')",
			"SELECT rehome.add_table('$migration', '$migration.r$round', '$name')",
			"SELECT rehome.set_table_rule('$migration', '$name', on_error => 'quarantine')",
			$stated =~ s/'M', 'T'/'$migration', '$name'/gr);
	};

	# copy, changes, sync; a copy of the changed rows; and one in the place of the first
	$define->("a$round", 'old', $to);
	call('copy', "a$round");
	my @changes;
	for (1 .. 40)
	{
		my $id = 1 + int rand 80;
		push @changes, one_of(
			"DELETE FROM $from WHERE id = $id",
			"INSERT INTO $from VALUES " . $row->($id) . ' ON CONFLICT DO NOTHING',
			map { "UPDATE $from SET c$_ = " . quoted(value($types[ $_ - 1 ], $rules[ $_ - 1 ])) . " WHERE id = $id" } 1 .. @types);
	}
	$pair->sql_source(join ";\n", @changes);
	call('sync', "a$round");
	my $synced = state("a$round", $to);
	$pair->sql_source("CREATE TABLE $twin (LIKE $from INCLUDING ALL); INSERT INTO $twin TABLE $from");
	$define->("b$round", 'twin', $again);
	call('copy', "b$round");
	is(state("b$round", $again), $synced, "round $round: a copy gives what sync has given");
	call('cancel', "b$round");
	$pair->sql_target("SELECT rehome.recopy('a$round', '$to')");
	call('sync', "a$round");
	is(state("a$round", $to), $synced, "round $round: and so does a copy in its place");
	is($pair->sql_target("SELECT bool_and(ok) FROM rehome.verify('a$round', mode => 'rows')"), 't', "round $round: verification finds no difference");

	# there and back
	my %named = map { $_ => 1 } split /\n/, $pair->sql_target(
		"SELECT split_part(object, '.', 3) FROM rehome.preflight('a$round') WHERE \"check\" = 'reverse' AND severity <> 'info' AND object LIKE '$from.%'");
	my @lossless = grep { !$named{"c$_"} } 1 .. @types;
	# a value that the source's type does not take would stop every way back
	my $stuck = $pair->sql_target("SELECT count(*) FROM rehome.preflight('a$round') WHERE detail LIKE '%the way back raises%'");
	note("round $round: preflight names @{[ sort keys %named ]}", $stuck ? '; nothing is written' : '');
	my $before = rows_of($from);
	$pair->sql_target("SELECT rehome.accept_quarantine('a$round', 'a property')");
	call('cutover', "a$round");
	my @ids = split /\n/, $pair->sql_target("SELECT id FROM $to ORDER BY id");
	my %written;
	my @writes = "UPDATE $to SET touched = 1 WHERE id % 2 = 0";
	# of a target whose rows are all in quarantine there is none to write to
	for my $n ($stuck || !@ids ? () : @lossless)
	{
		my ($at, $like) = (one_of(@ids), one_of(@ids));
		push @writes, "UPDATE $to SET t$n = (SELECT t$n FROM $to WHERE id = $like) WHERE id = $at";
		# what was written there before is what is read
		$written{$at}{"c$n"} = $before->{$like}{"c$n"};
	}
	$pair->sql_target(join ";\n", @writes) if @ids && !$stuck;
	call('rollback', "a$round");
	my $after = rows_of($from);
	my @wrong = keys %$after == keys %$before ? () : 'other rows';
	for my $id (sort keys %$before)
	{
		for my $column ('id', map { "c$_" } 1 .. @types)
		{
			# a row nobody has written to is as it was; of the others, what preflight has not named
			next if $named{$column} && ($id % 2 == 0 || $written{$id});
			my $wanted = $written{$id} && exists $written{$id}{$column} ? $written{$id}{$column} : $before->{$id}{$column};
			push @wrong, "$id $column: $after->{$id}{$column}, not $wanted" if ($after->{$id}{$column} // 'no row') ne $wanted;
		}
	}
	is(join("\n", @wrong), '', "round $round: after cutover, writes and rollback the source has what it had, and what was written")
	  or diag("PROPERTY_SEED=$seed PROPERTY_ROUNDS=$rounds");
	call('cancel', "a$round");
	return;
}

$pair->sql_source('CREATE SCHEMA old; CREATE SCHEMA twin');
$pair->sql_target(q{CREATE SCHEMA new; CREATE SCHEMA again;
	CREATE TABLE new.crosswalk (old text PRIMARY KEY, new text NOT NULL UNIQUE);
	INSERT INTO new.crosswalk VALUES ('a', 'eins'), ('b', 'zwei'), ('', 'leer'), ('?', 'drei')});
play($_) for 1 .. $rounds;

done_testing();
