create table if not exists "gateway_migration" ("name" varchar(191) primary key, "executed_at" bigint not null);

create table if not exists "gateway_payment" ("id" varchar(191) primary key, "merchant" varchar(191) not null, "provider" varchar(191) not null, "status" varchar(191) not null, "currency" varchar(191) not null, "amount_minor" bigint not null, "paid_minor" bigint not null, "refunded_minor" bigint not null, "refunding_minor" bigint not null, "description" text not null, "metadata" text not null, "webhook_url" text, "webhook_secret" text, "return_url" text, "account" varchar(191), "session" text, "late" integer not null, "test" integer not null, "needs_attention" text, "sequence" integer not null, "created_at" bigint not null, "updated_at" bigint not null, "expires_at" bigint not null, "version" integer not null);

create index if not exists "gateway_payment_expiry" on "gateway_payment" ("status", "expires_at");

create unique index if not exists "gateway_payment_account" on "gateway_payment" ("account", "provider");

create table if not exists "gateway_booking" ("provider" varchar(191) not null, "transaction_id" varchar(191) not null, "payment_id" varchar(191) not null, "amount_minor" bigint not null, "paid_at" bigint not null, constraint "gateway_booking_key" primary key ("provider", "transaction_id"));

create table if not exists "gateway_event" ("id" varchar(191) primary key, "payment_id" varchar(191) not null, "merchant" varchar(191) not null, "sequence" integer not null, "name" varchar(191) not null, "body" text not null, "position" bigint, "created_at" bigint not null, constraint "gateway_event_sequence" unique ("payment_id", "sequence"));

create index if not exists "gateway_event_position" on "gateway_event" ("merchant", "position");

create index if not exists "gateway_event_unplaced" on "gateway_event" ("position", "created_at");

create table if not exists "gateway_counter" ("name" varchar(191) primary key, "value" bigint not null);

create table if not exists "gateway_delivery" ("id" varchar(191) primary key, "event_id" varchar(191) not null, "payment_id" varchar(191) not null, "sequence" integer not null, "url" text not null, "state" varchar(191) not null, "attempts" integer not null, "schedule_attempts" integer not null, "due_at" bigint not null, "claim" varchar(191), "claim_ends_at" bigint not null);

create index if not exists "gateway_delivery_due" on "gateway_delivery" ("state", "due_at");

create index if not exists "gateway_delivery_payment" on "gateway_delivery" ("payment_id", "sequence");

create index if not exists "gateway_delivery_claim" on "gateway_delivery" ("claim");

create table if not exists "gateway_delivery_attempt" ("delivery_id" varchar(191) not null, "attempt" integer not null, "started_at" bigint not null, "duration_ms" bigint not null, "outcome" varchar(191) not null, "status" integer, "answer" text, constraint "gateway_delivery_attempt_key" primary key ("delivery_id", "attempt"));

create table if not exists "gateway_refund" ("id" varchar(191) primary key, "payment_id" varchar(191) not null, "amount_minor" bigint not null, "status" varchar(191) not null, "created_at" bigint not null, "updated_at" bigint not null);

create index if not exists "gateway_refund_open" on "gateway_refund" ("status", "created_at");

create table if not exists "gateway_idempotency" ("merchant" varchar(191) not null, "idempotency_key" varchar(191) not null, "fingerprint" varchar(191) not null, "resource_id" varchar(191) not null, "work_ends_at" bigint not null, "created_at" bigint not null, constraint "gateway_idempotency_key" primary key ("merchant", "idempotency_key"));

create table if not exists "gateway_merchant" ("id" varchar(191) primary key, "webhook_secret" text not null);

create table if not exists "gateway_token" ("id" varchar(191) primary key, "hash" varchar(191) not null unique, "merchant" varchar(191) not null, "scopes" text not null, "created_at" bigint not null);

create index if not exists "gateway_payment_created" on "gateway_payment" ("created_at", "id");

create index if not exists "gateway_payment_merchant" on "gateway_payment" ("merchant", "created_at", "id");

create index if not exists "gateway_booking_payment" on "gateway_booking" ("payment_id");

create index if not exists "gateway_refund_payment" on "gateway_refund" ("payment_id");

alter table "gateway_payment" add column if not exists "check_at" bigint;

alter table "gateway_payment" add column if not exists "check_claim" varchar(191);

create index if not exists "gateway_payment_check" on "gateway_payment" ("check_at");

alter table "gateway_payment" add column if not exists "erased_at" bigint;

alter table "gateway_refund" add column if not exists "check_at" bigint;

alter table "gateway_refund" add column if not exists "check_claim" varchar(191);

create index if not exists "gateway_refund_check" on "gateway_refund" ("check_at");

alter table "gateway_delivery" add column if not exists "merchant" varchar(191) not null default '';

alter table "gateway_delivery" add column if not exists "origin" varchar(191) not null default '';

alter table "gateway_delivery" add column if not exists "endpoint_id" varchar(191) not null default '';

alter table "gateway_delivery" add column if not exists "lane" integer not null default 0;

create index if not exists "gateway_delivery_lane" on "gateway_delivery" ("state", "lane", "due_at");

drop index if exists "gateway_delivery_due";

create table if not exists "gateway_endpoint" ("id" varchar(191) primary key, "merchant" varchar(191) not null, "url" text not null, "state" varchar(191) not null, "created_at" bigint not null);

create index if not exists "gateway_endpoint_merchant" on "gateway_endpoint" ("merchant");

create table if not exists "gateway_endpoint_secret" ("endpoint_id" varchar(191) not null, "number" integer not null, "secret" text not null, "ends_at" bigint not null, constraint "gateway_endpoint_secret_key" primary key ("endpoint_id", "number"));

create table if not exists "gateway_receiver" ("merchant" varchar(191) not null, "origin" varchar(191) not null, "failures" integer not null, "openings" integer not null, "probe" varchar(191), "open_until" bigint not null, constraint "gateway_receiver_key" primary key ("merchant", "origin"));

create index if not exists "gateway_payment_ended" on "gateway_payment" ("status", "erased_at", "updated_at");

drop index if exists "gateway_payment_expiry";

create index if not exists "gateway_idempotency_created" on "gateway_idempotency" ("created_at");

create index if not exists "gateway_delivery_attempt_started" on "gateway_delivery_attempt" ("started_at");

drop index if exists "gateway_delivery_claim";

alter table "gateway_merchant" add column if not exists "former_secrets" text;

alter table "gateway_merchant" add column if not exists "former_ends_at" bigint;

create table if not exists "gateway_provider_error" ("provider" varchar(191) not null, "day" bigint not null, "failures" bigint not null, "last_at" bigint not null, "last_call" varchar(191) not null, "last_message" text not null, constraint "gateway_provider_error_key" primary key ("provider", "day"));

alter table "gateway_refund" add column if not exists "answer" text;

alter table gateway_delivery set (fillfactor = 60);

drop index if exists "gateway_event_unplaced";

create index if not exists "gateway_payment_provider_check" on "gateway_payment" ("provider", "check_at");

drop index if exists "gateway_payment_check";

create index if not exists "gateway_delivery_receiver" on "gateway_delivery" ("state", "lane", "origin", "merchant", "due_at");

drop index if exists "gateway_delivery_lane";
