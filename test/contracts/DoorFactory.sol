// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import {WalletFactory} from "./WalletFactory.sol";

/// A factory that anybody may open and close. Closed, it makes no wallets.
contract DoorFactory is WalletFactory {
    bool private closed;

    function set(bool closed_) external {
        closed = closed_;
    }

    function deploy(address owner, bytes32 salt) public override returns (address) {
        require(!closed, "DoorFactory: closed");
        return super.deploy(owner, salt);
    }
}
