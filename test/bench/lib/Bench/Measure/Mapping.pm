# Bench::Measure::Mapping: what rules cost, and what rows cost that they refuse.
package Bench::Measure::Mapping;

use strict;
use warnings;

use Bench::Data;
use Bench::Rehome;

# One row in so many is bad.
my $bad = 100;

my $mapped = q{
	CREATE TABLE legacy (
		id bigint PRIMARY KEY,
		name text NOT NULL,
		email text NOT NULL,
		status text NOT NULL,
		created timestamptz NOT NULL,
		changed timestamptz,
		cents bigint NOT NULL,
		active boolean NOT NULL,
		phone text,
		country text NOT NULL,
		note text)};

# Ten rules. A row whose status is not in the map goes to quarantine.
my @rules = (
	q{SELECT rehome.add_table('m', 'remote.legacy', 'public.legacy',
		columns => '{"created": "now()", "changed": null, "cents": "0", "active": "false", "note": "upper(left(note, 40))"}')},
	map { my ($column, $rule) = @$_; "SELECT rehome.add_rule('m', 'public.legacy', '$column', $rule)" } (
		[ name    => q('text', '{"trim": "both"}') ],
		[ email   => q('text', '{"case": "lower"}') ],
		[ status  => q('value_map', '{"map": {"A": "active", "I": "idle", "P": "past"}, "unlisted": "quarantine"}') ],
		[ created => q('timestamp', '{"unit": "seconds"}') ],
		[ changed => q('timestamp', '{"unit": "millis"}') ],
		[ cents   => q('steps', '[{"kind": "number", "money": true}, {"kind": "expression", "expression": "value::numeric * 100"}]', 'price') ],
		[ active  => q('number', '{"boolean": true}') ],
		[ phone   => q('null', '{"blank_to_null": true}') ],
		[ country => q('null', '{"null_to": "US"}') ]));

# What they are to give, said in plain SQL for the source.
my $expected = q{
	SELECT id, btrim(name), lower(email), CASE status WHEN 'A' THEN 'active' WHEN 'I' THEN 'idle' WHEN 'P' THEN 'past' END,
	       to_timestamp(created), timestamptz 'epoch' + changed * interval '1 millisecond',
	       translate(price, '$,.', '')::bigint, active = 'Y', nullif(phone, ' '), coalesce(country, 'US'), upper(left(note, 40))
	  FROM legacy WHERE status <> '?'};

# Rows of a query: their number, and a hash that knows no order.
sub rows_of
{
	my ($server, $dbname, $query) = @_;
	return $server->value($dbname, "SELECT count(*) || ' ' || sum(hashtextextended(t::text, 0)) FROM ($query) AS t");
}

# A contender of contend(): a copy from one database into a fresh one of the same
# name. After it the target has what rows gives at the source, and so many rows
# are in quarantine.
sub contender
{
	my ($bench, %its) = @_;
	my $dbname = $its{dbname};
	return {
		name   => $its{name},
		before => sub {
			$bench->target->create_database($dbname);
			rehome_prepare($bench, $dbname, $dbname);
			$bench->target->do(
				$dbname, $its{table}, 'CREATE SCHEMA remote',
				'IMPORT FOREIGN SCHEMA public FROM SERVER src INTO remote',
				q{SELECT rehome.create_migration('m', 'src', 'a benchmark')}, @{ $its{rules} });
		},
		run   => sub { rehome_call($bench, $dbname, 'copy') },
		after => sub {
			my ($wanted, $found) = (rows_of($bench->source, $dbname, $its{rows}), rows_of($bench->target, $dbname, 'TABLE legacy'));
			die "after copy $its{name} the target has $found, and not $wanted\n" if $wanted ne $found;
			my $refused = $bench->target->value($dbname, 'SELECT count(*) FROM rehome.quarantine');
			die "copy $its{name} put $refused rows into quarantine, and not $its{refused}\n" if $refused != $its{refused};
			rehome_cancel($bench, $dbname, $dbname);
			$bench->target->drop_database($dbname);
		}
	};
}

sub mapping
{
	my ($bench) = @_;
	my $rows       = $bench->scaled(1_500_000);
	my %mapped     = (table => $mapped, rules => \@rules, rows => $expected);
	my @contenders = contender($bench, name => 'mapped', dbname => 'legacy', refused => 0, %mapped);
	data_legacy($bench, $bench->source, 'legacy', $rows);
	if ($bench->wanted('copy-mapped'))
	{
		push @contenders, contender($bench, name => 'plain', dbname => 'legacy', refused => 0, table => legacy_table(), rows => 'TABLE legacy',
			rules => [q{SELECT rehome.add_table('m', 'remote.legacy', 'public.legacy')}]);
	}
	if ($bench->wanted('copy-quarantine'))
	{
		data_legacy($bench, $bench->source, 'poisoned', $rows, $bad);
		push @contenders, contender($bench, name => 'poisoned', dbname => 'poisoned', refused => int $rows / $bad, %mapped);
	}

	my $result = $bench->contend(name => 'mapping', contenders => \@contenders);
	my %seconds = map { $_ => Bench::median(@{ $result->{$_}{seconds} }) } keys %$result;
	for my $its (
		[ 'copy-mapped', 'mapped', 'plain', '>= 0.6', "$rows rows, ten rules; against a plain copy of them" ],
		[ 'copy-quarantine', 'poisoned', 'mapped', '>= 0.7', "$rows rows, one in $bad is refused; against none" ])
	{
		my ($name, $ours, $peer, $reach, $remark) = @$its;
		$bench->line($name, ours => Bench::seconds_text($seconds{$ours}), peer => Bench::seconds_text($seconds{$peer}),
			ratio => $seconds{$peer} / $seconds{$ours}, reach => $reach, remark => $remark) if $bench->wanted($name);
	}
	return;
}

sub measures
{
	return ([ \&mapping, qw(copy-mapped copy-quarantine) ]);
}

1;
